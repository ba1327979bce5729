"""What every family must do, on a tiny random model of each. The oracle is the stock model, in which dropped
tokens are hidden from all deeper layers: it knows nothing of families."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AttentionInterface

from baselines import METHODS
from compress.attach.session import attach
from compress.base import INPUT, VISION, ClsSelector, Selection, Selector, View
from compress.compressor.network import Compressor
from compress.labels import forward
from compress.labels.fitness import AnswerLoss
from compress.models.conversation import Turn
from compress.models.loading import MLLM, load
from tests.own_selectors import Share, images_of
from tests.tiny_families import AT_INPUT, BUILDERS

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?", "what shape ?"]
SHAPES = [(48, 48), (60, 30), (20, 70), (26, 34)]  # width, height
STEPS = 4


@pytest.fixture(scope="module", params=BUILDERS)
def mllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    try:
        return load(str(BUILDERS[request.param](tmp_path_factory.mktemp("models") / request.param)))
    except ImportError:
        pytest.skip("this release of transformers reads the family's images with torchvision only")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return images_of(SHAPES)


def run(mllm: MLLM, inputs: Any, **options: Any) -> Any:
    """What is generated never stands for an image: no prompt may then hold it, and the oracle reads it."""
    return mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, suppress_tokens=[mllm.image_token_id], **options,
    )  # fmt: skip


def logits(output: Any) -> Tensor:
    return torch.stack(output.logits, 1)


@contextmanager
def hidden_from(mllm: MLLM, kept: Mapping[int, list[int]], visual: Tensor) -> Iterator[None]:
    """Hide what was dropped from each layer and all deeper ones, in calls of one sample without a cache."""

    def hide(number: int) -> Any:
        def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            length, given = args[0].shape[1], kwargs.get("attention_mask")
            lowest = torch.finfo(args[0].dtype).min
            if given is None:
                given = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
            mask = (
                torch.zeros(given.shape).masked_fill(~given, lowest) if given.dtype == torch.bool else given
            )
            left = set(range(len(visual)))
            for depth, index in kept.items():
                if depth <= number:
                    left &= set(index)
            gone = visual[[at for at in range(len(visual)) if at not in left]]
            mask = mask.clone()
            mask[..., gone] = lowest
            mask[..., gone, gone] = 0
            return args, {**kwargs, "attention_mask": mask}

        return hook

    handles = [
        layer.register_forward_pre_hook(hide(number), with_kwargs=True)
        for number, layer in enumerate(mllm.decoder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_tokens(inputs: Mapping[str, Tensor], new: Tensor) -> dict[str, Tensor]:
    """The inputs of a prompt [1, S] that goes on with these tokens."""
    made = {**inputs, "input_ids": torch.cat([inputs["input_ids"], new[None]], 1)}
    made["attention_mask"] = torch.ones_like(made["input_ids"])
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in made:
            made[name] = torch.nn.functional.pad(made[name], (0, len(new)))
    return made


def test_images_are_read_by_pil_with_and_without_torchvision(mllm: MLLM):
    """Pixels are then the same. Parts for videos, which stock classes build with torchvision, are absent."""
    assert type(mllm.processor.image_processor).__name__.endswith("Pil")
    assert getattr(mllm.processor, "video_processor", None) is None


@pytest.mark.parametrize("depth", [INPUT, 2])
def test_a_stage_that_keeps_all_changes_no_bit(mllm: MLLM, images, depth: int):
    inputs = mllm.prepare(images, QUESTIONS)
    expected = logits(run(mllm, inputs))
    with attach(mllm, Share({})):
        assert torch.equal(logits(run(mllm, inputs)), expected)
    with attach(mllm, Share({depth: 1.0})):
        assert torch.equal(logits(run(mllm, inputs)), expected)
    with torch.no_grad():
        states = mllm.model(**inputs, output_hidden_states=True).hidden_states
        with attach(mllm, Share({depth: 1.0})):
            found = mllm.model(**inputs, output_hidden_states=True).hidden_states
    assert all(torch.equal(*pair) for pair in zip(states, found, strict=True))


@pytest.mark.parametrize("shares", [{INPUT: 0.3}, {1: 0.4}, {INPUT: 0.7, 1: 0.5, 4: 0.3}], ids=str)
def test_dropping_equals_hiding_from_the_stock_model(mllm: MLLM, images, shares):
    for image in images[1:3]:
        inputs = mllm.prepare([image], QUESTIONS[:1])
        untouched = logits(run(mllm, inputs))
        with attach(mllm, Share(shares)) as trace:
            output = run(mllm, inputs)
        visual = mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
        new = output.sequences[0, -STEPS:]
        with hidden_from(mllm, trace.samples[0].kept, visual), torch.no_grad():
            whole = mllm.model(**with_tokens(inputs, new[:-1]), use_cache=False).logits[:, -STEPS:]
        torch.testing.assert_close(logits(output), whole, atol=3e-5, rtol=1e-5)
        assert (logits(output) - untouched)[:, 0].abs().max() > 0.05


@pytest.mark.parametrize("shares", [{INPUT: 0.3}, {INPUT: 0.7, 1: 0.5, 4: 0.3}], ids=str)
def test_a_batch_equals_its_samples(mllm: MLLM, images, shares):
    with attach(mllm, Share(shares)) as trace:
        together = logits(run(mllm, mllm.prepare(images, QUESTIONS)))
        alone = [
            logits(run(mllm, mllm.prepare([image], [question])))
            for image, question in zip(images, QUESTIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=3e-5, rtol=1e-5)
    assert trace.samples[:4] == trace.samples[4:]


def test_a_batch_whose_longest_sample_keeps_all_equals_its_samples(mllm: MLLM, images):
    """The batch does not get shorter, but what stands where in it changes."""

    class Some(Share):
        def select(self, view: View, keep: int) -> Selection:
            return Selection(torch.arange(min(len(view.hidden), most)))

    prepared = [mllm.prepare([image], [question]) for image, question in zip(images, QUESTIONS, strict=True)]
    counts = sorted(sum(map(len, mllm.pictures(each))) for each in prepared)
    most = counts[-1] if counts[-1] > counts[0] else counts[0]
    most = max(counts[0] - 1, most - 1)
    for depth in (INPUT, 1):
        with attach(mllm, Some({depth: 1.0})):
            together = last(mllm, mllm.prepare(images, QUESTIONS))
            alone = [last(mllm, each) for each in prepared]
        torch.testing.assert_close(together, torch.cat(alone), atol=3e-5, rtol=1e-5)


def test_beams_of_a_batch_are_those_of_its_samples(mllm: MLLM, images):
    inputs = mllm.prepare(images[:2], QUESTIONS[:2])
    expected = run(mllm, inputs, num_beams=3).sequences
    with attach(mllm, Share({})):
        assert torch.equal(run(mllm, inputs, num_beams=3).sequences, expected)
    with attach(mllm, Share({2: 0.3})):
        together = run(mllm, inputs, num_beams=3).sequences[:, -STEPS:]
        alone = [run(mllm, mllm.prepare([image], [asked]), num_beams=3).sequences[0, -STEPS:]
                 for image, asked in zip(images[:2], QUESTIONS[:2], strict=True)]  # fmt: skip
    assert torch.equal(together, torch.stack(alone))


def test_several_images_of_a_prompt_have_a_budget_each(mllm: MLLM, images):
    inputs = mllm.prepare_conversations([[Turn("user", QUESTIONS[0], images[:2])]])
    with attach(mllm, Share({INPUT: 0.6, 2: 0.5})) as trace:
        output = run(mllm, inputs)
    tokens = [len(picture) for picture in mllm.pictures(inputs)]
    assert [record.tokens for record in trace.samples] == tokens
    visual = mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
    kept = {
        depth: trace.samples[0].kept[depth] + [tokens[0] + index for index in trace.samples[1].kept[depth]]
        for depth in trace.samples[0].kept
    }
    with hidden_from(mllm, kept, visual), torch.no_grad():
        new = output.sequences[0, -STEPS:]
        whole = mllm.model(**with_tokens(inputs, new[:-1]), use_cache=False).logits[:, -STEPS:]
    torch.testing.assert_close(logits(output), whole, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [1, 3])
def test_methods_read_the_attention_and_the_input_of_a_layer_as_the_model_computes_them(
    mllm: MLLM, images, layer: int
):
    read: dict[int, Tensor] = {}
    entered: list[Tensor] = []

    class Reads(Share):
        def select(self, view: View, keep: int) -> Selection:
            read[view.depth] = view.attention(view.depth, None)
            self.view = view
            return super().select(view, keep)

    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    reads = Reads({layer: 0.5})
    with attach(mllm, reads), torch.no_grad():
        mllm.model(**inputs)
    handle = mllm.decoder.layers[layer].register_forward_pre_hook(
        lambda _, args: entered.append(args[0][0].clone())
    )
    with torch.no_grad():
        mllm.model(**inputs)
    handle.remove()
    shown = mllm.placeholders(inputs["input_ids"][0])
    assert reads.view.context is not None
    assert torch.equal(reads.view.hidden, entered[0][shown])
    assert torch.equal(reads.view.context, entered[0][~shown])
    kernel = mllm.decoder.config._attn_implementation
    mllm.decoder.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            whole = mllm.model(**inputs, output_attentions=True, use_cache=False).attentions[layer][0]
    finally:
        mllm.decoder.set_attn_implementation(kernel)
    visual = mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
    torch.testing.assert_close(read[layer], whole[:, :, visual], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", ["as it is", "any decoder"])
def test_candidate_losses_equal_hiding(mllm: MLLM, images, way: str, monkeypatch):
    if way == "any decoder":
        monkeypatch.setattr(forward, "LAYERS", ())
    embedded = mllm.embed(images[1], QUESTIONS[0], "red circle")
    if mllm.special_masks:
        with pytest.raises(ValueError, match="image tokens of .* also attend to later ones"):
            AnswerLoss(mllm, embedded)
        return
    inputs = mllm.prepare([images[1]], [QUESTIONS[0]])
    loss = AnswerLoss(mllm, embedded)
    rng = np.random.default_rng(0)
    count = len(embedded.visual)
    kept = np.sort(np.stack([rng.permutation(count)[: count // 3] for _ in range(5)]), 1)
    response = embedded.response
    for indices, found in zip(kept, loss(kept), strict=True):
        with hidden_from(mllm, {INPUT: indices.tolist()}, embedded.visual), torch.no_grad():
            whole = mllm.model(**with_tokens(inputs, response[:-1]), use_cache=False)
        expected = torch.nn.functional.cross_entropy(whole.logits[0, -len(response) :], response)
        assert found == pytest.approx(expected.item(), abs=3e-5)
    if embedded.added is not None:
        without = AnswerLoss(mllm, replace(embedded, added=None))(kept)
        assert np.abs(without - loss(kept)).max() > 0.01


def last(mllm: MLLM, inputs: Any) -> Tensor:
    """Logits [B, V] after the prompts, at the positions that `generate` gives them."""
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        positions = {} if mllm.mrope else {"position_ids": places}
        return mllm.model(**inputs, **positions, logits_to_keep=1).logits[:, -1]


def made(mllm: MLLM, name: str) -> Selector:
    """A method, in the form that asks least of the tower."""
    if name.startswith("evocomp"):
        torch.manual_seed(0)
        return METHODS[name](compressor=Compressor.from_decoder(mllm.decoder))
    settings: dict[str, Any] = {}
    if mllm.receives and issubclass(METHODS[name], ClsSelector):
        settings["cls"] = "received"
    if name == "cdpruner":
        settings["relevance"] = "decoder"
    if name == "mmtok":
        settings["features"] = "projected"
    if name == "fastvid" and not mllm.pools:
        settings["signal"] = "keys"
    return METHODS[name](**settings)


def at_the_tower(mllm: MLLM, method: Selector) -> bool:
    """Whether a method wants a CLIP tower, which no family here has."""
    reads = bool(method.tower_layers) and not (method.cls == "received" and mllm.receives)
    return reads or VISION in method.schedule(mllm.visual_tokens, 8, mllm.layers)


@pytest.mark.slow
def test_every_method_that_the_family_has_signals_for(mllm: MLLM, images):
    """Keep-all is bitwise, a batch equals its samples, and what only drops equals hiding."""
    asked = list(zip(images[1:3], QUESTIONS[:2], strict=True))
    both = mllm.prepare([image for image, _ in asked], [question for _, question in asked])
    single = mllm.prepare(images[1:2], QUESTIONS[:1])
    untouched, visual = last(mllm, single), mllm.placeholders(single["input_ids"][0]).nonzero()[:, 0]
    compared = []
    for name in METHODS:
        if mllm.recurrent(0) and name.startswith("evocomp"):
            with pytest.raises(ValueError, match="layer 0 of this .* decoder is recurrent"):
                made(mllm, name)
            continue
        method = made(mllm, name)
        if at_the_tower(mllm, method):
            with pytest.raises(ValueError, match="CLIP tower|no attention") as told, attach(mllm, method, 8):
                pass
            assert "\n" not in str(told.value), name
            continue
        if mllm.recurrent(0) and max(method.schedule(mllm.visual_tokens, 8, mllm.layers), default=0) > INPUT:
            with pytest.raises(ValueError, match="acts inside the decoder"), attach(mllm, method, 8):
                pass
            continue
        with attach(mllm, method, mllm.visual_tokens):
            assert torch.equal(last(mllm, single), untouched), name
        if name == "none":
            continue
        if method.video:
            with (
                pytest.raises(ValueError, match="frames of a video, and this is an image"),
                attach(mllm, method, 2, match="tokens"),
            ):
                last(mllm, single)
            continue
        with attach(mllm, method, 8, match="tokens", positions="original") as trace:
            together, alone = last(mllm, both)[:1], last(mllm, single)
        torch.testing.assert_close(
            together, alone, atol=5e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}"
        )
        record = trace.samples[2]
        assert trace.samples[0] == record, name
        merges = any(map(any, record.merged.values())) or any(
            index != sorted(index) for index in record.kept.values()
        )  # or puts tokens into another order
        if mllm.recurrent(0) or merges or method.cut_caches_from(mllm.layers) is not None:
            continue
        with hidden_from(mllm, record.kept, visual):
            whole = last(mllm, {**single, "use_cache": False})
        torch.testing.assert_close(
            alone, whole, atol=5e-5, rtol=1e-5, msg=lambda said, n=name: f"{n}: {said}"
        )
        compared.append(name)
    assert mllm.recurrent(0) or {"grid", "random", "fastv", "divprune", "evocomp"} <= set(compared)


def test_merged_tokens_may_stand_out_of_order(mllm: MLLM, images):
    """One for the whole image, and others in an order of their own; a batch equals its samples."""

    class Merging(Share):
        positions = "compact" if not mllm.mrope else "original"

        def select(self, view: View, keep: int) -> Selection:
            rows = torch.tensor([-1, 9, 4, 7])
            into = torch.arange(len(view.hidden)) % 4
            means = torch.stack([view.hidden[into == one].mean(0) for one in range(4)])
            return Selection(rows, means, into)

    for depth in INPUT, 2:
        with attach(mllm, Merging({depth: 1.0})) as trace:
            together = last(mllm, mllm.prepare(images[1:3], QUESTIONS[:2]))
            alone = [
                last(mllm, mllm.prepare([image], [question]))
                for image, question in zip(images[1:3], QUESTIONS, strict=False)
            ]
        torch.testing.assert_close(together, torch.cat(alone), atol=5e-5, rtol=1e-5)
        assert together.isfinite().all() and all(each.entering[-1] == 4 for each in trace.samples)


def test_what_is_added_to_a_merged_token_is_the_mean_of_what_is_added_to_its_parts(mllm: MLLM, images):
    if mllm.residuals is None:
        pytest.skip("nothing is added")

    class Halves(Share):
        def select(self, view: View, keep: int) -> Selection:
            into = (torch.arange(len(view.hidden)) % 2).index_fill(0, torch.tensor([4]), -1)
            return Selection(torch.tensor([0, 1]), view.hidden[:2] + 1, into)

    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    left: list[Tensor] = []
    with torch.no_grad():
        every = mllm.added(mllm.image_features(inputs))
        for depth in INPUT, 1:
            with attach(mllm, Halves({depth: 1.0})):
                handles = [
                    mllm.decoder.layers[depth].register_forward_hook(lambda *call: left.append(call[2])),
                    mllm.decoder.layers[depth + 1].register_forward_pre_hook(
                        lambda *call: left.append(call[1][0])
                    ),
                ]
                mllm.model(**inputs)
            for handle in handles:
                handle.remove()
            before, after = (each[0] for each in left)
            moved = (after - before).abs().amax(1).nonzero()[:, 0]
            even = [number for number in range(0, len(every[depth]), 2) if number != 4]
            expected = torch.stack([every[depth][even].mean(0), every[depth][1::2].mean(0)])
            torch.testing.assert_close((after - before)[moved], expected, atol=1e-4, rtol=1e-4)
            left.clear()


def test_tokens_are_made_of_the_patches_that_the_adapter_names(mllm: MLLM, images):
    """A row of the tower is changed behind its last block: the tokens that change are made of it."""
    if not mllm.receives:
        pytest.skip("nothing of its tower is read")
    inputs = mllm.prepare(images[1:3], QUESTIONS[:2])
    pictures = mllm.pictures(inputs)
    block, changed, rows = mllm.tower_layers[mllm.tower_depth - 1], [], 0

    def change(_: Any, args: tuple, output: Any) -> Any:
        nonlocal rows
        hidden = (output if isinstance(output, Tensor) else output[0]).clone()
        rows = hidden.shape[-2]
        if changed:
            hidden[changed[0]] += 5 * torch.arange(hidden.shape[-1]).sin()
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = block.register_forward_hook(change, prepend=True)  # before hidden states are recorded
    try:
        with torch.no_grad():
            before = torch.cat(list(mllm.image_features(inputs).pooler_output))
            start, tower_tile, checked = 0, 0, 0
            for picture in pictures:
                groups = mllm.tower_groups(picture)
                for tile in {0, picture.tiles - 1}:
                    number = tower_tile + (tile + picture.whole) % picture.tiles
                    for token in {0, 3, len(groups) - 1}:
                        row = int(groups[token, -1])
                        packed = sum(mllm.tower_groups(each).numel() for each in pictures[:number])
                        changed[:] = [(packed + row,) if mllm.mrope else (number, row)]
                        after = torch.cat(list(mllm.image_features(inputs).pooler_output))
                        moved = (after != before).any(-1)[start : start + len(picture)]
                        expected = (picture.tile == tile) & (picture.patch == token)
                        if "anyres" in str(getattr(mllm.model.config, "vision_aspect_ratio", "")):
                            assert moved[expected].all(), (tile, token)  # others may be shrunk onto it
                        else:
                            assert torch.equal(moved, expected)
                        assert moved.sum() == (after != before).any(-1).sum()
                        checked += int(expected.sum())
                start, tower_tile = start + len(picture), tower_tile + picture.tiles
            assert checked >= len(pictures)
    finally:
        handle.remove()


def test_attention_received_is_that_of_the_towers_own_eager_kernel(mllm: MLLM, images):
    if not mllm.receives:
        pytest.skip("nothing of its tower is read")
    seen: list[Tensor] = []

    class Reads(Share):
        tower_layers, cls = (-1,), "received"

        def select(self, view: View, keep: int) -> Selection:
            seen.append(view.received(-1))
            assert view.keys(-1).shape[:2] == (len(view.hidden), len(seen[-1]))
            return super().select(view, keep)

    inputs, weights = mllm.prepare(images[1:3], QUESTIONS[:2]), list[Tensor]()
    with attach(mllm, Reads({INPUT: 0.5})):
        last(mllm, inputs)
    eager = sys.modules[type(mllm.tower_layers[-1]).__module__].eager_attention_forward

    def noting(*args: Any, **options: Any) -> Any:
        output, found = eager(*args, **options)
        weights.append(found)
        return output, found

    config, block = mllm.tower.config, mllm.tower_layers[mllm.tower_block(-1)]
    kernel = config._attn_implementation
    AttentionInterface.register("noting", noting)
    handles = [
        block.register_forward_pre_hook(
            lambda *_: setattr(config, "_attn_implementation_internal", "noting")
        ),
        block.register_forward_hook(lambda *_: setattr(config, "_attn_implementation_internal", kernel)),
    ]
    try:
        with torch.no_grad():
            mllm.image_features(inputs)
    finally:
        for handle in handles:
            handle.remove()
    tiles = [rows for each in weights for rows in each.mean(2)]  # [H, M] of every tile, in the tower's order
    start = 0
    for picture, found in zip(mllm.pictures(inputs), seen, strict=True):
        own = [tiles[start + (number + picture.whole) % picture.tiles] for number in range(picture.tiles)]
        for token in range(len(picture)):
            tile, patch = int(picture.tile[token]), int(picture.patch[token])
            rows = mllm.tower_groups(picture)[patch]
            expected = own[tile][:, rows].mean(1) if tile >= 0 else torch.zeros(len(found))
            torch.testing.assert_close(found[:, token], expected, atol=1e-6, rtol=1e-5)
        start += picture.tiles


def test_the_least_budget_is_one_token_whatever_runs_an_image_stands_in(mllm: MLLM, images):
    inputs = mllm.prepare(images[1:3], QUESTIONS[:2])
    with attach(mllm, METHODS["grid"](), 1, match="tokens") as trace:
        assert last(mllm, inputs).isfinite().all()
    assert [record.entering for record in trace.samples] == [[1] * mllm.layers] * 2
    with pytest.raises(ValueError, match="keep=0") as told, attach(mllm, METHODS["grid"](), 0):
        pass
    assert "\n" not in str(told.value)


def test_arguments_that_say_how_images_are_cut_are_asked_for(mllm: MLLM, images):
    inputs = mllm.prepare(images[1:3], QUESTIONS[:2])
    needed = [name for name in mllm.image_arguments if name.endswith(("thw", "sizes", "position_ids"))]
    for name in needed:
        rest = {key: value for key, value in inputs.items() if key != name}
        with attach(mllm, Share()), pytest.raises(ValueError, match=f"give {name}, as the processor") as told:
            last(mllm, rest)
        assert "\n" not in str(told.value)


def test_more_images_than_prompts_name_and_fewer_are_refused_in_one_line(mllm: MLLM, images):
    both, one = mllm.prepare(images[1:3], QUESTIONS[:2]), mllm.prepare(images[1:2], QUESTIONS[:1])
    pixels = {*mllm.image_arguments, "pixel_values"}
    for ids, given in (one, both), (both, one):
        mixed = {name: value for name, value in ids.items() if name not in pixels}
        mixed |= {name: value for name, value in given.items() if name in pixels}
        with attach(mllm, Share()), pytest.raises(ValueError, match="give every image") as told:
            last(mllm, mixed)
        assert "\n" not in str(told.value)


def test_a_model_may_write_the_token_of_an_image_and_another_turn_may_not(mllm: MLLM, images):
    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    image = torch.tensor([[mllm.image_token_id]])
    with attach(mllm, Share({2: 0.3}), turns=True), torch.no_grad():
        first = mllm.model(**inputs, use_cache=True)
        second = mllm.model(input_ids=image, past_key_values=first.past_key_values)
        assert second.logits.isfinite().all()
        with pytest.raises(ValueError, match="another turn on a compressed cache is text only") as told:
            mllm.model(input_ids=image.expand(1, 3), past_key_values=second.past_key_values)
    assert "\n" not in str(told.value)


def test_frames_that_have_the_placeholder_of_images_are_refused(mllm: MLLM, images):
    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    if "mm_token_type_ids" not in inputs or mllm.video_arguments:
        pytest.skip("nothing tells frames from images, or the family reads videos")
    inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"] * 2
    with attach(mllm, Share()), pytest.raises(ValueError, match="are not compressed: give their") as told:
        last(mllm, inputs)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module", params=AT_INPUT)
def recurrent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(AT_INPUT[request.param](tmp_path_factory.mktemp("models") / request.param)))


def test_a_recurrent_decoder_loses_tokens_before_it_only(recurrent: MLLM, images):
    test_a_stage_that_keeps_all_changes_no_bit(recurrent, images, INPUT)
    test_a_batch_equals_its_samples(recurrent, images, {INPUT: 0.3})
    test_every_method_that_the_family_has_signals_for(recurrent, images)
    test_attention_received_is_that_of_the_towers_own_eager_kernel(recurrent, images)
    with (
        pytest.raises(ValueError, match="acts inside the decoder, and layer 0 of .* is recurrent"),
        attach(recurrent, Share({2: 0.3})),
    ):
        pass
    with pytest.raises(ValueError, match="layer 0 is recurrent"):
        AnswerLoss(recurrent, recurrent.embed(images[1], QUESTIONS[0], "red circle"))


def test_runs_of_an_image_may_lose_all_their_tokens(tmp_path_factory: pytest.TempPathFactory, images):
    """Fewer tokens than tiles: separators stay, and the order of the rest too."""
    mllm = load(str(BUILDERS["idefics3"](tmp_path_factory.mktemp("models") / "runs")))

    class Two(Share):
        def select(self, view: View, keep: int) -> Selection:
            rows = torch.tensor([len(view.hidden) - 1, 5])  # of the last run and the first, in this order
            return Selection(rows, view.hidden[rows])

    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    with attach(mllm, Two({INPUT: 0.1})) as trace:
        output = run(mllm, inputs)
    (record,) = trace.samples
    assert record.kept[INPUT] == [5, record.tokens - 1] and record.entering == [2] * mllm.layers
    visual = mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
    with hidden_from(mllm, record.kept, visual), torch.no_grad():
        new = output.sequences[0, -STEPS:]
        whole = mllm.model(**with_tokens(inputs, new[:-1]), use_cache=False).logits[:, -STEPS:]
    torch.testing.assert_close(logits(output), whole, atol=3e-5, rtol=1e-5)
