"""Patches and question in the joint space of the CLIP that a model's tower is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from baselines.cdpruner import CDPruner
from baselines.trim import TRIM
from compress.attach.session import attach
from compress.base import VISION, Selection, Selector, View
from compress.models.loading import MLLM, adapt

QUESTIONS = ["how many ?", "what color is the star ?"]
LONG = "what is the color of the large circle to the left of the small red square ?"


@dataclass
class Reading(Selector):
    """Notes what it reads of every image."""

    truncate: bool = False
    source: str = ""
    seen: list[tuple[Tensor, ...]] = field(default_factory=list)
    depth = VISION

    @property
    def reads_clip(self) -> str | None:
        return self.source

    def select(self, view: View, keep: int) -> Selection:
        self.seen.append((view.hidden, view.projected(), *view.clip(self.truncate)))
        return Selection(torch.arange(keep))


def read(mllm: MLLM, pictures, questions, **options: Any) -> list[tuple[Tensor, ...]]:
    method = Reading(**options)
    with attach(mllm, method, 20, match="tokens"), torch.no_grad():
        mllm.model(**mllm.prepare(pictures, questions))
    return method.seen


@pytest.fixture(scope="module")
def stock(tiny: MLLM) -> tuple[Any, Any]:
    folder = Path(tiny.name) / "clip"
    return CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_both_sides_are_clips_own(tiny: MLLM, pictures, stock):
    clip, tokenizer = stock
    for question, (hidden, projected, patches, text) in zip(
        QUESTIONS, read(tiny, pictures[:2], QUESTIONS), strict=True
    ):
        with torch.no_grad():
            expected = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
            torch.testing.assert_close(patches, expected)
            torch.testing.assert_close(projected, tiny.projector(hidden))
            ids = torch.tensor([tokenizer(question)["input_ids"]])
            said = clip.text_projection(clip.text_model(ids).pooler_output)
        torch.testing.assert_close(text, said)


def test_a_long_question_has_several_embeddings_or_is_cut(tiny: MLLM, pictures, stock):
    clip, tokenizer = stock
    ids = tokenizer(LONG)["input_ids"]
    ((*_, whole),) = read(tiny, pictures[:1], [LONG])
    ((*_, cut),) = read(tiny, pictures[:1], [LONG], truncate=True)
    assert len(ids) == 19 and whole.shape == (3, 32) and cut.shape == (1, 32)
    with torch.no_grad():
        last = torch.tensor([[*ids[18:], *[0] * 8]])
        first = torch.tensor([tokenizer(LONG, truncation=True, max_length=9)["input_ids"]])
        for found, given in ((whole[2:], last), (cut, first)):
            said = clip.text_projection(clip.text_model(given).pooler_output)
            torch.testing.assert_close(found, said)


@pytest.mark.parametrize("name", ["tiny", "tiny_next", "tiny_qwen"])
def test_the_question_is_read_without_what_the_chat_format_adds(name: str, request, pictures):
    mllm: MLLM = request.getfixturevalue(name)
    for question in (*QUESTIONS, LONG):
        assert mllm.question(mllm.prepare(pictures[:1], [question])["input_ids"][0]) == question


def test_a_folder_may_be_named(tiny: MLLM, tiny_next: MLLM, pictures):
    ((*_, own),) = read(tiny, pictures[:1], QUESTIONS[:1])
    ((*_, other),) = read(tiny, pictures[:1], QUESTIONS[:1], source=str(Path(tiny_next.name) / "clip"))
    assert own.shape == other.shape and not torch.equal(own, other)


def test_a_model_that_names_none_is_refused_in_one_line(tiny_folder: Path, tiny: MLLM, tiny_qwen: MLLM):
    bare = adapt(tiny.model, tiny.processor, "bare")
    config = bare.model.config
    config.mm_vision_tower, named = None, config.mm_vision_tower
    try:
        with pytest.raises(ValueError, match="names no CLIP.*clip=FOLDER"), attach(bare, TRIM(), 20):
            pass
        with attach(bare, CDPruner(relevance="decoder"), 20):
            pass
    finally:
        config.mm_vision_tower = named
    with pytest.raises(ValueError, match="CLIP tower"), attach(tiny_qwen, TRIM(), 9):
        pass
    with pytest.raises(ValueError, match="cannot load CLIP"), attach(tiny, TRIM(clip=str(tiny_folder)), 20):
        pass


def test_without_a_text_tower_the_decoders_embeddings_serve(tiny_qwen: MLLM, pictures):
    kept = []
    for question in QUESTIONS:
        with attach(tiny_qwen, CDPruner(relevance="decoder"), 9) as trace, torch.no_grad():
            tiny_qwen.model(**tiny_qwen.prepare(pictures[:1], [question]))
        kept.append(trace.samples[0].kept)
    assert kept[0] != kept[1]
