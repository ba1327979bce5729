"""What every family must do, on a tiny random model of each. The oracle is the stock model, in which dropped
tokens are hidden from all deeper layers: it knows nothing of families."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from compress.attach.session import attach
from compress.base import INPUT, Selection, View
from compress.labels import forward
from compress.labels.fitness import AnswerLoss
from compress.models.conversation import Turn
from compress.models.loading import MLLM, load
from tests.selectors import Share, images_of
from tests.tiny_families import AT_INPUT, BUILDERS

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?", "what shape ?"]
SHAPES = [(48, 48), (60, 30), (20, 70), (26, 34)]  # width, height
STEPS = 4


@pytest.fixture(scope="module", params=BUILDERS)
def mllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(BUILDERS[request.param](tmp_path_factory.mktemp("models") / request.param)))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return images_of(SHAPES)


def run(mllm: MLLM, inputs: Any, **options: Any) -> Any:
    return mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
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


@pytest.mark.parametrize("depth", [INPUT, 2])
def test_a_stage_that_keeps_all_changes_no_bit(mllm: MLLM, images, depth: int):
    inputs = mllm.prepare(images, QUESTIONS)
    expected = logits(run(mllm, inputs))
    with attach(mllm, Share({})):
        assert torch.equal(logits(run(mllm, inputs)), expected)
    with attach(mllm, Share({depth: 1.0})):
        assert torch.equal(logits(run(mllm, inputs)), expected)


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
            together = logits(run(mllm, mllm.prepare(images, QUESTIONS)))
            alone = [logits(run(mllm, each)) for each in prepared]
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


@pytest.mark.parametrize("layer", [0, 3])
def test_the_attention_that_methods_read_is_the_models_own(mllm: MLLM, images, layer: int):
    read: dict[int, Tensor] = {}

    class Reads(Share):
        def select(self, view: View, keep: int) -> Selection:
            read[view.depth] = view.attention(view.depth, None)
            return super().select(view, keep)

    inputs = mllm.prepare(images[1:2], QUESTIONS[:1])
    with attach(mllm, Reads({layer: 0.5})), torch.no_grad():
        mllm.model(**inputs)
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


@pytest.fixture(scope="module", params=AT_INPUT)
def recurrent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(AT_INPUT[request.param](tmp_path_factory.mktemp("models") / request.param)))


def test_a_recurrent_decoder_loses_tokens_before_it_only(recurrent: MLLM, images):
    test_a_stage_that_keeps_all_changes_no_bit(recurrent, images, INPUT)
    test_a_batch_equals_its_samples(recurrent, images, {INPUT: 0.3})
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
