"""Every family: stock classes, images of different shapes, and the same contract."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Mapping
from copy import copy
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig

from baselines import METHODS
from compress.attach.session import attach
from compress.base import INPUT, VISION, Selection, Selector, View
from compress.budget import choices_of, entering, plan
from compress.compressor.evocomp import Learned
from compress.compressor.network import Compressor
from compress.labels import forward
from compress.labels.fitness import AnswerLoss
from compress.models.conversation import Turn
from compress.models.llava_next import SIZES
from compress.models.loading import MLLM, adapt, load
from compress.models.shapes import SHAPES as PUBLISHED
from tests.own_selectors import Share, images_of
from tests.tiny_families import BUILDERS

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?", "what shape ?"]
FAMILIES = ["tiny", "tiny_next", "tiny_next_fixed", "tiny_qwen"]
SHAPES = [(48, 48), (60, 30), (20, 70), (26, 34)]  # width, height
pytestmark = pytest.mark.versions


@pytest.fixture(params=FAMILIES)
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Different pictures of different shapes."""
    return images_of(SHAPES)


class All(Selector):
    """Keeps what it sees."""

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {2: keep}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(len(view.hidden)))


def run(mllm: MLLM, inputs, steps: int = 4) -> Tensor:
    output = mllm.model.generate(
        **inputs, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(output.logits, 1)


def test_the_adapter_knows_where_every_visual_token_comes_from(mllm: MLLM, images):
    inputs = mllm.prepare(images, QUESTIONS)
    pictures = mllm.pictures(inputs)
    counts = (inputs["input_ids"] == mllm.image_token_id).sum(1).tolist()
    assert [len(picture) for picture in pictures] == counts
    assert max(counts) <= mllm.visual_tokens
    for picture in pictures:
        assert set(picture.tile.tolist()) - {-1} == set(range(picture.tiles))
        assert ((picture.patch < 0) == (picture.tile < 0)).all()
        assert picture.patch.max() < picture.grid[0] * picture.grid[1]


def test_images_are_seen_upright(mllm: MLLM, images):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned
    file = BytesIO()
    images[1].transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    turned, upright = (mllm.prepare([each], QUESTIONS[:1]) for each in (Image.open(file), images[1]))
    assert turned.keys() == upright.keys()
    assert all(torch.equal(turned[name], upright[name]) for name in upright)


@pytest.mark.parametrize("size", [(200_000, 1), (1, 60_000), (402, 2)])
def test_thin_images_are_refused_before_they_are_resized(mllm: MLLM, size, monkeypatch):
    monkeypatch.setattr(type(mllm.processor), "__call__", lambda *_, **__: pytest.fail("it was resized"))
    monkeypatch.setattr(type(mllm.processor.image_processor), "__call__", None)
    thin = Image.new("RGB", size)
    for ask in (mllm.prepare, mllm.embed, mllm.answer, mllm.encode):
        with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels is too thin.* 200 times"):
            ask(*((thin, "how many ?") if ask == mllm.embed else ([thin], ["how many ?"])))


def test_thin_images_are_refused_where_the_model_is_told_their_size(tiny_next: MLLM, images):
    inputs = tiny_next.prepare(images[:1], QUESTIONS[:1])
    inputs["image_sizes"] = torch.tensor([[2, 402]])
    with (
        attach(tiny_next, Share()),
        pytest.raises(ValueError, match="402 x 2 pixels is too thin"),
    ):
        tiny_next.model(**inputs)


def test_next_tokens_are_the_features_of_their_patches(tiny_next: MLLM, images, monkeypatch):
    inputs = tiny_next.prepare(images, QUESTIONS)
    seen: list[Tensor] = []
    handle = tiny_next.projector.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        embeds = tiny_next.merge(inputs)
    handle.remove()
    first = 0
    for row, ids, picture in zip(embeds, inputs["input_ids"], tiny_next.pictures(inputs), strict=True):
        visual = row[ids == tiny_next.image_token_id]
        patches = picture.tile >= 0
        expected = seen[0][first + picture.tile[patches], picture.patch[patches]]
        assert torch.equal(visual[patches], expected)
        newline = tiny_next.model.model.image_newline
        assert (visual[~patches] == newline).all() and (~patches).any()
        first += picture.tiles


def test_where_tokens_come_from_is_remembered_of_the_latest_sizes_only(tiny_next: MLLM):
    held = []
    for width in range(20, 20 + 2 * SIZES):
        (picture,) = tiny_next.pictures({"image_sizes": [(20, width)]})
        assert tiny_next.pictures({"image_sizes": [(20, width)]})[0] is picture
        held.append(weakref.ref(picture))
    del picture
    gc.collect()
    assert sum(one() is not None for one in held) <= SIZES


def test_keeping_all_is_the_untouched_model(mllm: MLLM, images):
    inputs = mllm.prepare(images, QUESTIONS)
    expected = run(mllm, inputs)
    with attach(mllm, All(), mllm.visual_tokens):
        assert torch.equal(run(mllm, inputs), expected)


@pytest.mark.parametrize("shares", [{INPUT: 0.3}, {2: 0.2}, {INPUT: 0.7, 1: 0.5, 4: 0.3}])
def test_a_batch_equals_its_samples_one_by_one(mllm: MLLM, images, shares):
    with attach(mllm, Share(shares)) as trace:
        together = run(mllm, mllm.prepare(images, QUESTIONS))
        alone = [
            run(mllm, mllm.prepare([image], [question]))[0]
            for image, question in zip(images, QUESTIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert trace.samples[:4] == trace.samples[4:]
    expected = run(mllm, mllm.prepare(images, QUESTIONS))
    assert ((together - expected)[:, 0].abs().amax(1) > 0.05).all()


def test_dropping_at_the_input_equals_masking(mllm: MLLM, images):
    """The decoder of the untouched model with the dropped tokens masked, at the same positions."""
    inputs = mllm.prepare(images[1:2], QUESTIONS[1:2])
    with attach(mllm, Share()) as trace, torch.no_grad():
        found = mllm.model(**inputs).logits[0, -1]
        visual = (inputs["input_ids"][0] == mllm.image_token_id).nonzero()[:, 0]
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, visual] = 0
    mask[0, visual[torch.tensor(trace.samples[0].kept[INPUT])]] = 1
    positions = mllm.positions(inputs, 0)
    with torch.no_grad():
        hidden = mllm.decoder(
            inputs_embeds=mllm.merge(inputs), attention_mask=mask,
            position_ids=positions[:, None] if positions.ndim == 2 else positions[None],
        ).last_hidden_state  # fmt: skip
        expected = mllm.head(hidden)[0, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def recompute(mllm: MLLM, inputs, new: Tensor, kept: dict[int, list[int]]) -> Tensor:
    """Logits [steps, V] by a plain loop over the decoder's layers, without cache or hooks.

    Tokens that were dropped before a layer are absent from it and all deeper ones.
    """
    ids = inputs["input_ids"]
    embeds = torch.cat([mllm.merge(inputs), mllm.decoder.embed_tokens(new[None])], 1)
    positions = mllm.positions(inputs, len(new))
    hidden, cos_sin = (
        embeds,
        mllm.decoder.rotary_emb(embeds, positions[:, None] if positions.ndim == 2 else positions[None]),
    )
    visual = (ids[0] == mllm.image_token_id).nonzero()[:, 0].tolist()
    rows = list(range(embeds.shape[1]))
    for number, layer in enumerate(mllm.decoder.layers):
        if number in kept:
            gone = set(visual) - {visual[index] for index in kept[number]}
            stay = [place for place, row in enumerate(rows) if row not in gone]
            hidden = hidden[:, stay]
            cos_sin = tuple(table[:, stay] for table in cos_sin)
            rows = [rows[place] for place in stay]
        length = hidden.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
        hidden = layer(hidden, attention_mask=mask, position_embeddings=cos_sin)
    return mllm.head(mllm.decoder.norm(hidden))[0, -len(new) - 1 : -1]


@pytest.mark.parametrize("shares", [{INPUT: 0.3}, {2: 0.3}, {1: 0.5, 4: 0.2}])
def test_decoding_equals_an_independent_recomputation(mllm: MLLM, images, shares):
    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    with attach(mllm, Share(shares)) as trace:
        output = mllm.model.generate(
            **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    (record,) = trace.samples
    assert sorted(record.kept) == sorted(shares)
    new = output.sequences[0, -5:]
    expected = recompute(mllm, inputs, new, record.kept)
    torch.testing.assert_close(torch.stack(output.logits, 1)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_plain_call_of_the_next_token_equals_generate(mllm: MLLM, images):
    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    with attach(mllm, Share({2: 0.3})), torch.no_grad():
        expected = run(mllm, inputs, 2)[0]
        first = mllm.model(**inputs, use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        second = mllm.model(input_ids=token, past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits[0, -1], expected[1], atol=1e-5, rtol=1e-5)


def test_methods_at_the_tower_drop_newlines_and_keep_patches(tiny_next: MLLM, images):
    inputs = tiny_next.prepare(images, QUESTIONS)
    pictures = tiny_next.pictures(inputs)
    with attach(tiny_next, Share({VISION: 0.4})) as trace:
        together = run(tiny_next, inputs)
        alone = [
            run(tiny_next, tiny_next.prepare([image], [question]))[0]
            for image, question in zip(images, QUESTIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    for record, picture in zip(trace.samples, pictures, strict=False):
        kept = torch.tensor(record.kept[VISION])
        assert (picture.tile[kept] >= 0).all()
        assert record.entering[0] == round(0.4 * int((picture.tile >= 0).sum()))


def test_a_budget_that_only_newlines_exceed_keeps_all_patches(tiny_next: MLLM, images):
    class Fewer(Selector):
        depth = VISION

        def select(self, view: View, keep: int) -> Selection:
            assert 1 <= keep < len(view.hidden)
            return Selection(torch.arange(keep))

    inputs = tiny_next.prepare(images, QUESTIONS)
    pictures = tiny_next.pictures(inputs)
    keep = min(map(len, pictures)) - 1
    with attach(tiny_next, Fewer(), keep) as trace, torch.no_grad():
        tiny_next.model(**inputs)
    patches = [int((picture.tile >= 0).sum()) for picture in pictures]
    assert min(patches) < keep
    assert [record.entering[0] for record in trace.samples] == [min(keep, count) for count in patches]


class Listening(Share):
    """Remembers the signals of its view."""

    tower_layers = (-2,)

    def select(self, view: View, keep: int) -> Selection:
        self.view, self.attention, self.keys = view, view.cls(-2), view.keys(-2)
        return super().select(view, keep)


def test_newlines_have_no_attention_from_cls(tiny_next: MLLM, images):
    inputs = tiny_next.prepare(images[:1], QUESTIONS[:1])
    (picture,) = tiny_next.pictures(inputs)
    selector = Listening()
    with attach(tiny_next, selector), torch.no_grad():
        tiny_next.model(**inputs)
    newline = picture.tile < 0
    assert selector.view.crop is not None and torch.equal(selector.view.crop, picture.tile)
    assert (selector.attention[:, newline] == 0).all() and (selector.attention[:, ~newline] > 0).all()
    for tile in range(picture.tiles):  # softmax over each tile and its own CLS
        assert (selector.attention[:, picture.tile == tile].sum(1) < 1).all()
    assert (selector.keys[newline] == 0).all()


def test_a_fixed_grid_gives_every_image_five_tiles_without_newlines(tiny_next: MLLM, images):
    fixed = load(tiny_next.name, anyres="fixed")
    inputs = fixed.prepare(images, QUESTIONS)
    assert fixed.visual_tokens == 180
    for picture in fixed.pictures(inputs):
        assert len(picture) == 180 and (picture.tile >= 0).all()
    with attach(fixed, Share({VISION: 0.5, 2: 0.5})) as trace:
        run(fixed, inputs)
    assert [record.entering for record in trace.samples] == [[90, 90, 45, 45, 45, 45]] * 4


def test_a_method_at_a_clip_tower_is_refused_without_one(tiny_qwen: MLLM):
    with (
        pytest.raises(ValueError, match="works on the tokens of a CLIP tower"),
        attach(tiny_qwen, Listening()),
    ):
        pass


def test_a_budget_is_judged_by_the_image_where_images_have_any_size(tiny_qwen: MLLM, images):
    """A bare model does not know its processor's limits, and takes images to be up to 15,625 tokens."""

    class Late(Selector):
        def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
            return {2: keep}

        def select(self, view: View, keep: int) -> Selection:
            return Selection(torch.arange(keep))

    inputs = tiny_qwen.prepare(images[:1], QUESTIONS[:1])
    (tokens,) = (len(picture) for picture in tiny_qwen.pictures(inputs))
    with attach(tiny_qwen.model, Late(), tokens * 2 // 3) as trace, torch.no_grad():
        tiny_qwen.model(**inputs)
    assert trace.samples[0].entering == [tokens] * 2 + [tokens // 2] * 4
    with (
        pytest.raises(ValueError, match=f"up to {tokens} enter the layers before its last stage"),
        attach(tiny_qwen.model, Late(), tokens // 4),
        torch.no_grad(),
    ):
        tiny_qwen.model(**inputs)


@pytest.mark.parametrize("way", ["known layers", "any decoder"])
def test_candidate_losses_equal_a_masked_forward(mllm: MLLM, images, way: str, monkeypatch):
    if way == "any decoder":
        monkeypatch.setattr(forward, "LAYERS", ())
    embedded = mllm.embed(images[1], QUESTIONS[0], "red circle")
    loss = AnswerLoss(mllm, embedded)
    rng = np.random.default_rng(0)
    count = len(embedded.visual)
    kept = np.sort(np.stack([rng.permutation(count)[:9] for _ in range(5)]), 1)
    positions = embedded.positions
    with torch.no_grad():
        for indices, found in zip(kept, loss(kept), strict=True):
            mask = torch.ones(1, len(embedded.embeds), dtype=torch.long)
            mask[0, embedded.visual] = 0
            mask[0, embedded.visual[torch.tensor(indices)]] = 1
            hidden = mllm.decoder(
                inputs_embeds=embedded.embeds[None], attention_mask=mask,
                position_ids=positions[:, None] if positions.ndim == 2 else positions[None],
            ).last_hidden_state  # fmt: skip
            logits = mllm.head(hidden)[0, -len(embedded.response) - 1 : -1]
            expected = torch.nn.functional.cross_entropy(logits, embedded.response)
            assert found == pytest.approx(expected.item(), abs=2e-5)


def at_full_size(name: str) -> MLLM:
    """The published configuration, without memory for weights; of any number of tiles."""
    kind, configure = PUBLISHED[name]
    with torch.device("meta"):
        return adapt(kind(configure()))


@pytest.mark.parametrize(
    ("name", "parameters", "tokens", "layers", "tower_depth", "compressor"),
    [
        ("llava-1.5-7b", 7_063_427_072, 576, 32, 23, 202_383_360),
        ("llava-1.5-13b", 13_351_494_656, 576, 40, 23, 317_204_480),
        ("llava-next-7b", 7_063_431_168, 576 + 48 * 49, 32, 23, 202_383_360),
        ("qwen2.5-vl-7b", 8_292_166_656, 35 * 35, 28, 32, 233_057_792),
    ],
)
def test_published_configurations_fit_their_adapters(
    name, parameters, tokens, layers, tower_depth, compressor
):
    mllm = at_full_size(name)
    assert sum(parameter.numel() for parameter in mllm.model.parameters()) == parameters
    assert (mllm.layers, mllm.tower_depth, mllm.visual_tokens) == (layers, tower_depth, tokens)
    assert len(mllm.tower_layers) >= tower_depth
    width = mllm.decoder.config.hidden_size
    assert mllm.traits.width == width and mllm.head.weight.shape == (mllm.head.out_features, width)
    with torch.device("meta"):
        made = Compressor(mllm.decoder.config)
    head = made.width + 1
    assert sum(parameter.numel() for parameter in made.parameters()) == compressor + head


@pytest.mark.parametrize(
    ("name", "fixed", "count"),
    [("llava-1.5-7b", False, 576), ("llava-1.5-13b", False, 576), ("llava-next-7b", False, 2928),
     ("llava-next-7b", True, 2880)],
)  # fmt: skip
def test_an_image_becomes_so_many_tokens_at_full_size(name: str, fixed: bool, count: int):
    """Shapes only: the model's own code runs on tensors without memory."""
    mllm = at_full_size(name)
    if fixed:
        mllm.fix_grid()
    tiles = (5,) if "next" in name else ()
    given = {"pixel_values": torch.empty(1, *tiles, 3, 336, 336, device="meta")}
    if tiles:
        given["image_sizes"] = torch.tensor([[672, 672]])
    with torch.no_grad():
        (features,) = mllm.model.get_image_features(**given).pooler_output
    assert features.shape == (count, mllm.decoder.config.hidden_size)
    (picture,) = mllm.pictures(given)
    assert len(picture) == count == mllm.visual_tokens


def test_four_patches_are_a_token_of_qwen_at_full_size():
    mllm = at_full_size("qwen2.5-vl-7b")
    (picture,) = mllm.pictures({"image_grid_thw": torch.tensor([[1, 46, 34]]), "pixel_values": None})
    tokens = mllm.projector(torch.empty(46 * 34, 1280, device="meta"))
    assert tokens.shape == (len(picture), 3584) == (23 * 17, 3584)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_method_has_a_schedule_at_full_size(name: str):
    """Paper budgets: 64 of 576, and a ninth of the others; PACT prunes once, too late for that: a sixth."""
    mllm = at_full_size(name)
    for kind, method in METHODS.items():
        keep = round(mllm.visual_tokens / (6 if kind == "pact" else 9))
        selector = method(Compressor(tiny_llama())) if issubclass(method, Learned) else method()
        counts = entering(
            plan(selector, mllm.visual_tokens, keep, mllm.layers), mllm.visual_tokens, mllm.layers
        )
        assert kind == "none" or abs(sum(counts) / mllm.layers - keep) <= 1, kind
        assert all(isinstance(choice, str) for choice in choices_of(selector, mllm.traits))


def tiny_llama() -> LlamaConfig:
    return LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=4, num_hidden_layers=1)


def test_the_fixed_grid_at_full_size_has_2880_tokens():
    mllm = at_full_size("llava-next-7b")
    mllm.fix_grid()
    assert mllm.visual_tokens == 2880
    pictures = mllm.pictures({"image_sizes": torch.tensor([[640, 640]])})  # `encode` pads to a square
    assert [len(picture) for picture in pictures] == [2880]


def test_a_native_grid_depends_on_the_shape_of_the_image():
    """640 x 480 in 2 x 2 crops of 24 x 24: after the thumbnail 36 rows of 48 patches and a newline."""
    mllm = at_full_size("llava-next-7b")
    (picture,) = mllm.pictures({"image_sizes": torch.tensor([[480, 640]])})
    assert len(picture) == 576 + 36 * 49 and int((picture.tile < 0).sum()) == 36


@pytest.mark.parametrize("mllm", ["tiny", "tiny_next", "tiny_qwen"], indirect=True)
def test_the_pipeline_of_transformers_answers_with_fewer_tokens(mllm: MLLM, images):
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=mllm.model, processor=mllm.processor)
    content = [{"type": "image", "image": images[1]}, {"type": "text", "text": QUESTIONS[0]}]
    with attach(mllm.model, Share()) as trace:
        said = pipe(text=[{"role": "user", "content": content}], max_new_tokens=3, return_full_text=False)
    assert said[0]["generated_text"] is not None
    assert [round(0.3 * record.tokens) for record in trace.samples] == [trace.samples[0].entering[0]]


def test_a_family_that_reads_no_videos_refuses_them_rather_than_pass_them_uncompressed(tmp_path, pictures):
    """The placeholder of its frames is that of images; the kinds of tokens tell."""
    mllm = load(str(BUILDERS["glm4v"](tmp_path / "glm")))
    inputs = mllm.prepare(pictures[:1], ["how many ?"])
    inputs["mm_token_type_ids"] = 2 * inputs["mm_token_type_ids"]
    with (
        attach(mllm, METHODS["fastv"](), 16, match="tokens"),
        pytest.raises(ValueError, match=r"videos of .* \(Glm4V\) are not compressed: give their frames as"),
    ):
        mllm.model(**inputs)


def test_without_a_processor_an_image_may_have_more_tokens_than_the_usual_maximum(tiny_qwen: MLLM, pictures):
    bare = adapt(tiny_qwen.model)
    usual = bare.visual_tokens
    inputs = tiny_qwen.prepare(pictures[:1], ["how many ?"])
    with attach(bare, METHODS["grid"](), usual + 1, match="tokens") as trace, torch.no_grad():
        bare.model(**inputs)  # a count beyond the image keeps all of it
    (picture,) = tiny_qwen.pictures(inputs)
    assert set(trace.samples[0].entering) == {len(picture)}
    with attach(tiny_qwen, METHODS["grid"](), usual + 1), pytest.raises(ValueError, match="keep="):
        tiny_qwen.model(**inputs)  # a processor says how many an image may have; only videos have more


@torch.no_grad()
def two_steps(mllm: MLLM, inputs: Mapping[str, Tensor]) -> Tensor:
    """Last logits of a prefill and of one token more with its cache, by plain calls."""
    first = mllm.model(**inputs, use_cache=True)
    token = first.logits[:, -1:].argmax(-1)
    second = mllm.model(input_ids=token, past_key_values=first.past_key_values)
    return torch.stack([first.logits[:, -1], second.logits[:, -1]])


@pytest.mark.parametrize("before", ["nothing", "two images", "one image"])
@pytest.mark.parametrize("asked", ["text alone", "an image without token types"])
def test_positions_are_not_those_of_an_earlier_batch(tiny_qwen: MLLM, images, before: str, asked: str):
    """The model keeps offsets of the latest images; without token types all positions are a text's."""
    fresh = load(tiny_qwen.name)
    if asked == "text alone":
        ids = fresh._processor().tokenizer([f"user : {QUESTIONS[0]}"], return_tensors="pt").input_ids
        inputs = {"input_ids": ids}
    else:
        inputs = dict(fresh.prepare(images[:1], QUESTIONS[:1]))
        del inputs["mm_token_type_ids"]
    expected = two_steps(fresh, inputs)
    used = load(tiny_qwen.name)
    count = {"nothing": 0, "two images": 2, "one image": 1}[before]
    with attach(used, METHODS["none"]()), torch.no_grad():
        if count:
            used.model(**used.prepare(images[:count], QUESTIONS[:count]))
        found = two_steps(used, inputs)
    assert torch.equal(found, expected)


def test_a_call_goes_on_where_generate_stopped(tiny_qwen: MLLM, images):
    inputs = tiny_qwen.prepare(images[:2], QUESTIONS[:2])
    step = {"min_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with attach(tiny_qwen, Share({2: 0.5})), torch.no_grad():
        expected = tiny_qwen.model.generate(**inputs, max_new_tokens=3, **step)
        first = tiny_qwen.model.generate(**inputs, max_new_tokens=2, **{**step, "min_new_tokens": 2})
        tiny_qwen.model(**tiny_qwen.prepare(images[3:], QUESTIONS[3:]))
        found = tiny_qwen.model(
            input_ids=expected.sequences[:, -2:-1], past_key_values=first.past_key_values,
            attention_mask=torch.nn.functional.pad(inputs["attention_mask"], (0, 2), value=1),
        )  # fmt: skip
    torch.testing.assert_close(found.logits[:, -1], expected.logits[-1], atol=1e-5, rtol=1e-5)


def test_an_answer_may_hold_any_token(tiny_qwen: MLLM, images):
    """Models of random weights write the token that stands for videos in prompts."""
    inputs = tiny_qwen.prepare(images[:1], QUESTIONS[:1])
    written = torch.tensor([[tiny_qwen.model.config.video_token_id]])
    with attach(tiny_qwen, Share()), torch.no_grad():
        first = tiny_qwen.model(**inputs, use_cache=True)
        second = tiny_qwen.model(input_ids=written, past_key_values=first.past_key_values)
    assert second.logits.isfinite().all()


PARTS = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy")
CHANGES = [
    *[(family, {part: None}) for family in ("tiny", "tiny_next") for part in PARTS],
    *[(family, {"patch_size": 8}) for family in ("tiny", "tiny_next")],
    ("tiny", {"num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}),
    ("tiny_next", {"image_processor": {"image_grid_pinpoints": [[48, 48]]}}),
    ("tiny_qwen", {"image_processor": {"patch_size": 8}}),
    ("tiny_qwen", {"image_processor": {"patch_size": None, "temporal_patch_size": None}}),
    ("tiny_qwen", {"image_processor": {"merge_size": 1}}),
]


@pytest.mark.parametrize(("family", "changes"), CHANGES, ids=str)
def test_a_processor_that_does_not_fit_takes_its_sizes_from_the_model(
    request: pytest.FixtureRequest, tmp_path, images, family: str, changes
):
    """Without these fields, or with others, it would count other tokens than the model makes of an image."""
    sound = request.getfixturevalue(family)
    folder = shutil.copytree(sound.name, tmp_path / "model")
    path = folder / "processor_config.json"
    written = json.loads(path.read_text())
    for name, value in changes.items():
        owner, new = (written[name], value) if isinstance(value, dict) else (written, {name: value})
        owner.update(new)
        for gone in [key for key, one in new.items() if one is None]:
            del owner[gone]
    path.write_text(json.dumps(written))
    loaded = load(str(folder))
    found, expected = (one.prepare(images[:2], QUESTIONS[:2]) for one in (loaded, sound))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    given = type(sound).read_processor(str(folder))
    before = repr(given)
    adapt(sound.model, given)
    assert repr(given) == before, "the caller's own processor was changed"


COUNTS = [
    ("gemma3", "image_seq_length"),
    ("idefics3", "image_seq_len"),
    ("smolvlm", "image_seq_len"),
    ("internvl", "image_seq_length"),
    ("llava_onevision", "num_image_tokens"),
]


@pytest.mark.parametrize(("family", "field"), COUNTS)
def test_a_processor_takes_the_tokens_of_a_tile_from_the_model(tmp_path, images, family: str, field: str):
    """With another number, or with none, for which each processor has a default of its own."""
    try:
        folder = BUILDERS[family](tmp_path / "model")
    except ImportError:
        pytest.skip("this release of transformers reads the family's images with torchvision only")
    sound = load(str(folder))
    expected = sound.prepare(images[:2], QUESTIONS[:2])
    path = folder / "processor_config.json"
    written = json.loads(path.read_text())
    without = {name: value for name, value in written.items() if name != field}
    for changed in (written | {field: written[field] + 3}, without):
        path.write_text(json.dumps(changed))
        loaded = load(str(folder))
        found = loaded.prepare(images[:2], QUESTIONS[:2])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        with attach(loaded, METHODS["grid"](), 5, match="tokens") as trace, torch.no_grad():
            loaded.model(**found)
        assert [record.entering[-1] for record in trace.samples] == [5, 5]


def test_a_processor_beside_a_bare_model_is_named_where_its_tokens_do_not_fit(tiny: MLLM, images):
    inputs = tiny.prepare(images[:1], QUESTIONS[:1])
    place = int((inputs["input_ids"][0] == tiny.image_token_id).nonzero()[0])
    image = inputs["input_ids"][:, place : place + 1]
    for ids in (
        torch.cat([inputs["input_ids"][:, :place], inputs["input_ids"][:, place + 1 :]], 1),
        torch.cat([image, inputs["input_ids"]], 1),
    ):
        with attach(tiny.model, Share()), pytest.raises(ValueError, match="processor's patch_size, num_add"):
            tiny.model(input_ids=ids, pixel_values=inputs["pixel_values"])


TEXTS = [
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] }}{% endfor %}",
    "{% for m in messages %}{{ m['role'] ~ ' : ' ~ m['content'] }}{% endfor %}",
    "{% for m in messages %}{{ m['content'].strip() }}{% endfor %}",
    "{{ raise_exception('content must be a string') }}",
]


@pytest.mark.parametrize("template", TEXTS)
def test_a_chat_template_that_expects_texts_is_refused(mllm: MLLM, images, template: str):
    processor = copy(mllm.processor)
    processor.chat_template = template
    other = adapt(mllm.model, processor, "other")
    for ask in other.prepare, other.answer:
        with pytest.raises(ValueError, match="template of other does not take content as a list") as told:
            ask(images[:1], QUESTIONS[:1])
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="chat template of other"):
        other.prepare_conversations([[Turn("user", "how many ?")]])


def test_a_processor_without_chat_template_is_refused(mllm: MLLM, images):
    processor = copy(mllm.processor)
    processor.chat_template = None
    other = adapt(mllm.model, processor, "other")
    with pytest.raises(ValueError, match="chat_template|chat template"):
        other.prepare(images[:1], QUESTIONS[:1])


def test_onevision_takes_images_in_one_list_or_in_one_for_each_prompt(tmp_path):
    """As stock processors do: in one list it counts the images of each prompt."""
    mllm = load(str(BUILDERS["llava_onevision"](tmp_path / "onevision")))
    shown, asked = images_of([(60, 30), (26, 34)]), [mllm.prompt(question) for question in QUESTIONS[:2]]
    counted = []
    for images in (shown, [[one] for one in shown]):
        inputs = mllm.processor(images=images, text=asked, padding=True, return_tensors="pt")
        with attach(mllm, METHODS["divprune"](), 20) as trace, torch.no_grad():
            mllm.model(**inputs)
        counted.append([record.tokens for record in trace.samples])
    assert counted == [[mllm.tokens_of(one) for one in shown]] * 2
