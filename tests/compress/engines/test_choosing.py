from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from baselines import (
    CDPruner,
    DivPrune,
    EvoComp,
    Farthest,
    FastV,
    KeepAll,
    Pool,
    PruMerge,
    Random,
    ToMe,
    VisionZip,
    Words,
)
from bench.evaluation.compressors import random_compressor
from compress.attach.session import attach
from compress.attach.tower import Encoding
from compress.base import Selector
from compress.engines.choosing import EngineChoice, EnginePrompt, check_tower
from compress.engines.embedding import collapsed, embed
from compress.keep import Ratio
from compress.models.conversation import Turn
from compress.models.loading import MLLM, load
from tests.tiny_families import qwen3

QUESTION = "what color is the circle ?"


def entering(mllm: MLLM, selector: Selector, images: Sequence[Image], keep: Any) -> list[Tensor]:
    """What the decoder reads of each image under `attach`."""
    seen: list[Tensor] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"][0])

    inputs = mllm.prepare_conversations([[Turn("user", QUESTION, images)]])
    with attach(mllm, selector, keep, positions="compact") as trace, torch.no_grad():
        handle = mllm.decoder.register_forward_pre_hook(note, with_kwargs=True)
        mllm.model(**inputs)
        handle.remove()
    start, found = int((inputs["input_ids"][0] == mllm.image_token_id).nonzero()[0]), []
    for record in trace.samples:  # images stand side by side in these prompts
        found.append(seen[0][start : start + record.entering[0]])
        start += record.entering[0]
    return found


def methods(mllm: MLLM) -> list[Selector]:
    return [
        KeepAll(), Farthest(), DivPrune(), Pool(), Random(), VisionZip(), PruMerge(), Words(),
        EvoComp(random_compressor(mllm)),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(9))
def test_embeddings_are_what_the_decoder_reads(tiny: MLLM, pictures: list[Image], number: int) -> None:
    selector = methods(tiny)[number]
    ours = embed(tiny, selector, pictures[:1], QUESTION, 5)
    torch.testing.assert_close(ours, entering(tiny, selector, pictures[:1], 5))


@pytest.mark.parametrize("keep", [6, 10**6, Ratio("1/3")])
@pytest.mark.parametrize("number", [1, 5, 7, 8])
def test_tiles_and_several_images(tiny_next: MLLM, pictures: list[Image], number: int, keep: Any) -> None:
    selector = methods(tiny_next)[number]
    keep = tiny_next.visual_tokens if keep == 10**6 else keep
    ours = embed(tiny_next, selector, pictures[:2], QUESTION, keep)
    theirs = entering(tiny_next, selector, pictures[:2], keep)
    torch.testing.assert_close(ours, theirs)


def test_a_tower_that_merges(tiny: MLLM, pictures: list[Image]) -> None:
    ours = embed(tiny, ToMe(), pictures[:1], QUESTION, 20)
    torch.testing.assert_close(ours, entering(tiny, ToMe(), pictures[:1], 20))


def test_words_of_clip(pictures: list[Image]) -> None:
    mllm = load("busy")
    ours = embed(mllm, CDPruner(), pictures[:1], QUESTION, 20)
    torch.testing.assert_close(ours, entering(mllm, CDPruner(), pictures[:1], 20))


def test_the_question_says_what_stays(tiny: MLLM, pictures: list[Image]) -> None:
    one = embed(tiny, Words(), pictures[:1], "what color is the circle ?", 5)
    two = embed(tiny, Words(), pictures[:1], "how many star are there ?", 5)
    assert not torch.equal(one[0], two[0])


def test_models_with_several_axes_are_refused(tiny_qwen: MLLM, pictures: list[Image]) -> None:
    with pytest.raises(ValueError, match="several axes"):
        embed(tiny_qwen, Farthest(), pictures[:1], QUESTION, 5)


@torch.no_grad()
def test_what_the_decoder_adds_goes_with_its_token(tmp_path: Path, pictures: list[Image]) -> None:
    mllm = load(str(qwen3(tmp_path)))
    inputs = mllm.prepare(pictures[:1], [QUESTION])
    features, (picture,) = mllm.image_features(inputs), mllm.pictures(inputs)
    rows, added = torch.cat(list(features.pooler_output)), mllm.added(features)
    ids = collapsed(inputs["input_ids"][0], mllm.image_token_id, [len(picture)])
    (prompt,) = EnginePrompt.read(ids, mllm.image_token_id)
    choice = EngineChoice(mllm, Farthest(), 5, mllm.decoder.embed_tokens)
    kept = choice.choose(picture, prompt, Encoding([rows], {}, None, None, None, ()), rows, added)
    assert len(kept.index) == 5 and len(kept.added) == len(added) == 3
    assert torch.equal(kept.embeds, rows[kept.index])
    assert all(torch.equal(left, each[kept.index]) for left, each in zip(kept.added, added, strict=True))


@pytest.mark.parametrize(
    ("selector", "keep", "why"),
    [
        (FastV(), 5, "inside the decoder, before layer 1"),
        (PruMerge(adaptive=True), 5, "decides by itself"),
        (Farthest(), 10**6, "choose between 1 and"),
    ],
)
def test_impossible_choices_are_refused(tiny: MLLM, selector: Selector, keep: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        EngineChoice(tiny, selector, keep, tiny.decoder.embed_tokens)


@pytest.mark.parametrize(
    ("selector", "why"), [(ToMe(), "inside the tower"), (VisionZip(cls="received"), "does not hand over")]
)
def test_what_an_engine_s_tower_cannot_do_is_refused(tiny: MLLM, selector: Selector, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_tower(tiny, selector)


def test_another_number_of_tokens_than_reserved_is_an_error(tiny: MLLM, pictures: list[Image]) -> None:
    class Greedy(Farthest):
        def select(self, view: Any, keep: int) -> Any:
            return super().select(view, keep + 1)

    with pytest.raises(RuntimeError, match="left 6 tokens of an image, and 5 places"):
        embed(tiny, Greedy(), pictures[:1], QUESTION, 5)


def test_prompts_tell_where_each_image_stands() -> None:
    ids = torch.tensor([1, 7, 7, 7, 2, 7, 7, 3])
    short = collapsed(ids, 7, [3, 2])
    assert short.tolist() == [1, 7, 2, 7, 3]
    found = EnginePrompt.read(short, 7)
    assert [(each.ids.tolist(), each.before) for each in found] == [([1, 2, 3], 1), ([1, 2, 3], 2)]
    assert collapsed(torch.tensor([7, 7, 7, 7, 1]), 7, [2, 2]).tolist() == [7, 7, 1]
