"""Decoders whose layers see a window of the sequence: what is dropped moves nothing into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from baselines import METHODS
from compress.attach.attention import window
from compress.attach.session import attach
from compress.base import INPUT, Selection, Selector, View, top_k
from compress.models.loading import MLLM, adapt
from tests.conftest import decoder, sharpen
from tests.methods import REPRESENTATIVES, make

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?"]
WINDOW = 24
STEPS = 6
STAGES = {INPUT: 60, 2: 30, 4: 9}
KINDS = ["mistral", "qwen"]
pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def mistral(tiny: MLLM) -> MLLM:
    """The tiny LLaVA with a decoder of which every layer has a window."""
    config = type(tiny.model.config)(**tiny.model.config.to_dict())
    config.text_config = MistralConfig(**decoder(tiny.processor.tokenizer, sliding_window=WINDOW))
    torch.manual_seed(3)
    return adapt(sharpen(LlavaForConditionalGeneration(config)), tiny.processor)


@pytest.fixture(scope="module")
def qwen(tiny_qwen: MLLM) -> MLLM:
    """The tiny Qwen2.5-VL with windows in every other layer."""
    config = type(tiny_qwen.model.config).from_dict(tiny_qwen.model.config.to_dict())
    text = config.text_config
    text.use_sliding_window, text.sliding_window = True, WINDOW
    text.layer_types = ["full_attention", "sliding_attention"] * 3
    torch.manual_seed(3)
    return adapt(sharpen(Qwen2_5_VLForConditionalGeneration(config)), tiny_qwen.processor)


@pytest.fixture(params=KINDS)
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


@dataclass
class Tail(Selector):
    """Keeps the last of the visual tokens, as many as `counts` says for each depth."""

    counts: Mapping[int, int] = field(default_factory=dict)

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {depth: min(count, tokens) for depth, count in self.counts.items()}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(len(view.hidden))[-keep:])


class Longest(Tail):
    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(view.hidden.norm(dim=-1), keep))


def run(mllm: MLLM, inputs: Any) -> tuple[Tensor, Tensor]:
    output = mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return output.sequences[:, -STEPS:], torch.stack(output.logits, 1)


def test_windows_are_read_from_the_layers(mistral: MLLM, qwen: MLLM, tiny: MLLM):
    assert [window(mistral.decoder, number) for number in range(6)] == [WINDOW] * 6
    assert [window(qwen.decoder, number) for number in range(6)] == [None, WINDOW] * 3
    assert [window(tiny.decoder, number) for number in range(6)] == [None] * 6


@pytest.mark.parametrize("depth", [INPUT, 1, 3])
def test_dropping_what_no_window_reaches_changes_nothing(mistral: MLLM, pictures, depth: int):
    """The first visual token is further from the last rows than six layers of windows reach."""
    inputs = mistral.prepare(pictures[:1], QUESTIONS[:1])
    tokens, expected = run(mistral, inputs)
    with attach(mistral, Tail({depth: 143}), 143, match="tokens") as trace:
        found, logits = run(mistral, inputs)
    assert trace.samples[0].entering[-1] == 143 and torch.equal(found, tokens)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def recompute(mllm: MLLM, picture, question: str, new: Tensor, kept: Mapping[int, list[int]]) -> Tensor:
    """Logits [STEPS, V], each layer from scratch under a mask by places in the untouched sequence."""
    embedded = mllm.embed(picture, question)
    rows = torch.cat([embedded.embeds, mllm.decoder.embed_tokens(new[:-1])])
    positions, start = embedded.positions, int(embedded.visual[0])
    after = positions.max() + 1 + torch.arange(len(new) - 1)
    positions = torch.cat([positions, after.expand(*positions.shape[:-1], -1)], -1)
    place = torch.arange(len(rows))
    for number, layer in enumerate(mllm.decoder.layers):
        if number in kept:
            stays = torch.ones(len(place), dtype=torch.bool)
            visual = (place >= start) & (place < start + len(embedded.visual))
            stays[visual] = torch.isin(place[visual] - start, torch.tensor(kept[number]))
            rows, place = rows[stays], place[stays]
        away = place[:, None] - place
        sees = window(mllm.decoder, number)
        hidden = (away < 0) | (away >= (len(embedded.embeds) + STEPS if sees is None else sees))
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        ids = positions[..., place]
        tables = mllm.decoder.rotary_emb(rows, position_ids=ids[:, None] if ids.ndim == 2 else ids[None])
        rows = layer(rows[None], attention_mask=mask[None, None], position_embeddings=tables)[0]
    return mllm.head(mllm.decoder.norm(rows[-STEPS:]))


@pytest.mark.parametrize(
    ("counts", "kernel"),
    [({INPUT: 40}, "sdpa"), ({1: 30}, "sdpa"), (STAGES, "sdpa"), (STAGES, "eager")],
    ids=str,
)
def test_layers_behind_a_drop_see_a_window_of_the_untouched_sequence(mllm: MLLM, pictures, counts, kernel):
    """While decoding too, when tokens leave the window, alone and in a padded batch."""
    images = [picture.resize((96, 96)) for picture in pictures[:3]]
    mllm.model.set_attn_implementation({"text_config": kernel})
    try:
        with attach(mllm, Longest(counts), 9, match="tokens") as trace:
            new, logits = run(mllm, mllm.prepare(images, QUESTIONS))
            alone = [run(mllm, mllm.prepare([image], [asked])) for image, asked in zip(images, QUESTIONS)]  # noqa: B905
    finally:
        mllm.model.set_attn_implementation({"text_config": "sdpa"})
    for sample, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
        expected = recompute(mllm, image, question, new[sample], trace.samples[sample].kept)
        torch.testing.assert_close(logits[sample], expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(alone[sample][1][0], expected, atol=2e-5, rtol=1e-5)


def test_a_window_as_long_as_the_sequence_changes_nothing(tiny: MLLM, pictures):
    """Such layers run as they are, with the kernels of layers without a window."""
    config = type(tiny.model.config)(**tiny.model.config.to_dict())
    config.text_config = MistralConfig(**decoder(tiny.processor.tokenizer, sliding_window=400))
    torch.manual_seed(3)
    wide = adapt(sharpen(LlavaForConditionalGeneration(config)), tiny.processor)
    inputs = wide.prepare(pictures[:2], QUESTIONS[:2])
    found = []
    for sees in 400, None:
        wide.decoder.config.sliding_window = sees
        with attach(wide, Longest({1: 40}), 40, match="tokens"):
            found.append(run(wide, inputs)[1])
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_way_to_act_gives_the_same_with_windows_alone_and_in_a_batch(
    mistral: MLLM, pictures, name: str
):
    inputs = mistral.prepare(pictures[:3], QUESTIONS)
    with attach(mistral, make(name, mistral), 40, match="tokens") as trace:
        together, logits = run(mistral, inputs)
        for sample, (picture, question) in enumerate(zip(pictures, QUESTIONS, strict=False)):
            tokens, alone = run(mistral, mistral.prepare([picture], [question]))
            assert torch.equal(tokens[0], together[sample])
            torch.testing.assert_close(alone[0], logits[sample], atol=2e-5, rtol=1e-5)
    assert trace.samples[:3] == trace.samples[3:]


def test_a_cache_without_windows_gives_the_same(mistral: MLLM, pictures):
    inputs = mistral.prepare(pictures[:2], QUESTIONS[:2])
    with attach(mistral, METHODS["mustdrop"](), 40, match="tokens"):
        expected = run(mistral, inputs)[1]
        found = run(mistral, {**inputs, "past_key_values": DynamicCache()})[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_method_reads_the_attention_that_the_layer_computes(mistral: MLLM, pictures):
    read = {}

    class Reads(Tail):
        def select(self, view: View, keep: int) -> Selection:
            read[view.depth] = view.attention(view.depth, None)
            return super().select(view, keep)

    inputs = mistral.prepare(pictures[:1], QUESTIONS[:1])
    with attach(mistral, Reads({2: 40}), 40, match="tokens"), torch.no_grad():
        mistral.model(**inputs)
    mistral.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.no_grad():
            whole = mistral.model(**inputs, output_attentions=True).attentions[2][0]
    finally:
        mistral.model.set_attn_implementation({"text_config": "sdpa"})
    visual = (inputs["input_ids"][0] == mistral.image_token_id).nonzero()[:, 0]
    torch.testing.assert_close(read[2], whole[:, :, visual], atol=1e-6, rtol=1e-5)
    assert (read[2][:, -1, :100] == 0).all(), "the last row does not see so far"
