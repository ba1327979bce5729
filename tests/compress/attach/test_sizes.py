"""Attention to merged tokens by how many joined them, against plain loops over the stock decoder's layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, MistralConfig

from compress.attach.attention import window
from compress.attach.layout import Layout
from compress.attach.session import attach
from compress.base import Selection, Selector, View
from compress.models.loading import MLLM, adapt
from tests.conftest import decoder, sharpen

QUESTIONS = ["what color is the star ?", "is there a red circle above ?"]
STEPS = 4
pytestmark = pytest.mark.versions


@dataclass
class Clusters(Selector):
    """Some of the longest tokens, each with a few others merged into it; the shortest fifth is dropped."""

    counts: Mapping[int, int] = field(default_factory=lambda: {1: 30})
    adaptive: bool = True
    attends_by_size = True

    def __post_init__(self) -> None:
        self.noted: list[tuple[int, Tensor, Tensor]] = []
        self.read: dict[int, Tensor] = {}

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return dict.fromkeys(self.counts, 0)

    def select(self, view: View, keep: int) -> Selection:
        order = view.hidden.norm(dim=-1).argsort(descending=True)
        index = order[: self.counts[view.depth]].sort().values
        into = torch.full((len(order),), -1)
        joining = order[: len(order) * 4 // 5]
        into[joining] = torch.arange(len(joining)) ** 2 % len(index)  # some get many, others few
        into[index] = torch.arange(len(index))
        self.noted.append((view.depth, index, into))
        self.read[view.depth] = view.attention(view.depth, [-1])
        return Selection(index, means(view.hidden, into, len(index)), into)


def means(rows: Tensor, into: Tensor, count: int) -> Tensor:
    return torch.stack([rows[into == one].mean(0) for one in range(count)])


@pytest.fixture(scope="module")
def windowed(tiny: MLLM) -> MLLM:
    config = type(tiny.model.config)(**tiny.model.config.to_dict())
    config.text_config = MistralConfig(**decoder(tiny.processor.tokenizer, sliding_window=60))
    torch.manual_seed(3)
    return adapt(sharpen(LlavaForConditionalGeneration(config)), tiny.processor)


@pytest.fixture(params=["tiny", "tiny_qwen", "windowed"])
def mllm(request: pytest.FixtureRequest) -> MLLM:
    return request.getfixturevalue(request.param)


def run(mllm: MLLM, inputs: Any) -> tuple[Tensor, Tensor]:
    output = mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return output.sequences[:, -STEPS:], torch.stack(output.logits, 1)


@torch.no_grad()
def oracle(
    mllm: MLLM, picture: Any, question: str, new: Tensor, noted: list[tuple[int, Tensor, Tensor]]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits [STEPS, V] of the prompt and `new`, and by depth the last prompt row's attention [H, 1, N]."""
    embedded = mllm.embed(picture, question)
    rows = torch.cat([embedded.embeds, mllm.decoder.embed_tokens(new[:-1])])
    positions = embedded.positions
    after = positions.max() + 1 + torch.arange(len(new) - 1)
    positions = torch.cat([positions, after.expand(*positions.shape[:-1], -1)], -1)
    place, size, chosen, read = torch.arange(len(rows)), torch.ones(len(rows)), list(noted), {}
    visual = torch.isin(place, embedded.visual)
    for number, layer in enumerate(mllm.decoder.layers):
        stage = chosen.pop(0) if chosen and chosen[0][0] == number else None
        for weighed in (False, True) if stage else (True,):
            if stage and weighed:
                _, index, into = stage
                at = visual.nonzero()[:, 0]
                rows, size = rows.clone(), size.clone()
                merged = means(rows[at], into, len(index))
                sums = torch.stack([size[at][into == one].sum() for one in range(len(index))])
                rows[at[index]], size[at[index]] = merged, sums
                stays = ~visual
                stays[at[index]] = True
                rows, size, place, visual = rows[stays], size[stays], place[stays], visual[stays]
            sees = window(mllm.decoder, number) or 10**6
            away = place[:, None] - place
            hides = torch.finfo(torch.float32).min
            mask = torch.zeros(away.shape).masked_fill((away < 0) | (away >= sees), hides) + size.log()
            ids = positions[..., place]
            tables = mllm.decoder.rotary_emb(rows, position_ids=ids[:, None] if ids.ndim == 2 else ids[None])
            given = {"attention_mask": mask[None, None], "position_embeddings": tables}
            if not weighed:
                weights = layer.self_attn(layer.input_layernorm(rows[None]), **given)[1]
                if weights is not None:  # of the eager kernel
                    read[number] = weights[0][:, [-STEPS]][..., visual]
        rows = layer(rows[None], **given)[0]
    return mllm.head(mllm.decoder.norm(rows[-STEPS:])), read


@pytest.mark.parametrize(
    ("counts", "kernel"), [({1: 30}, "sdpa"), ({0: 50, 3: 12}, "sdpa"), ({1: 40, 3: 12}, "eager")], ids=str
)
def test_later_layers_add_the_logarithm_of_sizes_while_decoding_too(mllm: MLLM, pictures, counts, kernel):
    images = [picture.resize((96, 96)) for picture in pictures[:2]]
    method = Clusters(counts)
    stages = len(counts)
    mllm.model.set_attn_implementation({"text_config": kernel})
    try:
        with attach(mllm, method) as trace:
            new, together = run(mllm, mllm.prepare(images, QUESTIONS))
            in_batch = list(method.noted)
            for sample, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
                method.noted.clear()
                tokens, alone = run(mllm, mllm.prepare([image], [question]))
                expected, read = oracle(mllm, image, question, new[sample], method.noted)
                torch.testing.assert_close(alone[0], expected, atol=3e-5, rtol=1e-5)
                torch.testing.assert_close(together[sample], expected, atol=3e-5, rtol=1e-5)
                assert [each[0] for each in method.noted] == list(counts)
                assert (read.keys() == counts.keys()) == (kernel == "eager")
                for depth, weights in read.items():
                    torch.testing.assert_close(method.read[depth], weights, atol=1e-5, rtol=1e-4)
    finally:
        mllm.model.set_attn_implementation({"text_config": "sdpa"})
    assert len(in_batch) == 2 * stages
    for record in trace.samples:
        assert [record.entering[depth] for depth in counts] == list(counts.values())


def test_without_sizes_the_same_tokens_give_something_else(tiny: MLLM, pictures):
    inputs, found = tiny.prepare(pictures[:2], QUESTIONS), []
    for by_size in True, False:
        method = Clusters()
        method.attends_by_size = by_size
        with attach(tiny, method):
            found.append(run(tiny, inputs)[1])
    assert (found[0] - found[1]).abs().max() > 0.01


def test_beams_of_a_batch_are_those_of_its_samples(tiny: MLLM, pictures):
    def beams(images: list[Any], questions: list[str]) -> Tensor:
        inputs = tiny.prepare(images, questions)
        found = tiny.model.generate(
            **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, num_beams=3
        )
        return found[:, -STEPS:]

    with attach(tiny, Clusters()):
        together = beams(pictures[:2], QUESTIONS)
        alone = [beams([image], [asked])[0] for image, asked in zip(pictures[:2], QUESTIONS, strict=True)]
    assert torch.equal(together, torch.stack(alone))


def test_sizes_stay_with_their_rows():
    index = [[torch.arange(4)], [torch.arange(3)]]
    layout = Layout(7, [7, 5], [[2], [1]], index, [[0], [0]], torch.device("cpu"))
    kept = {(0, 0): torch.tensor([1, 3]), (1, 0): torch.tensor([0, 2])}
    after, _ = layout.shorten(kept)
    after = layout.joined((0, 0), torch.tensor([0, 0, -1, 1]), after)
    after = layout.joined((1, 0), torch.tensor([1, 1, 1]), after)
    assert after.size is not None
    assert after.size.tolist() == [[1, 1, 2, 1, 1], [1, 1, 0, 3, 1]]
    again, _ = after.shorten({(0, 0): torch.tensor([0])})
    merged = after.joined((0, 0), torch.tensor([0, 0]), again).size
    assert merged is not None and merged.tolist() == [[1, 1, 3, 1], [1, 0, 3, 1]]
    taken = after.take([1, 1]).size
    assert taken is not None and taken.tolist() == [[1, 1, 0, 3, 1]] * 2


def test_kernels_without_added_masks_are_refused(tiny: MLLM, monkeypatch):
    monkeypatch.setattr(tiny.decoder.config, "_attn_implementation_internal", "flash_attention_2")
    with (
        pytest.raises(ValueError, match="which flash_attention_2 does not take: load .*'sdpa'") as told,
        attach(tiny, Clusters()),
    ):
        pass
    assert "\n" not in str(told.value)
