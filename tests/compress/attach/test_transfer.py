"""A choice made on one model and kept on another."""

from __future__ import annotations

import pytest
import torch

from baselines import METHODS
from compress.attach.session import attach
from compress.attach.transfer import check_twins, choose
from compress.budget import plan
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?", "what shape ?"]
DROPPING = [
    "random",
    "grid",
    "farthest",
    "cover",
    "fastv",
    "dart",
    "dart-input",
    "pyramiddrop",
    "hired",
    "gprune",
]
MERGING = ["pool", "downsample", "sparsevlm", "prumerge", "visionzip", "tome", "mustdrop"]


def kept(mllm: MLLM, selector, pictures, keep: int, match: str = "equivalent") -> list[list[list[int]]]:
    """Per image, what is kept at each stage."""
    with attach(mllm, selector, keep, match=match) as trace, torch.no_grad():
        mllm.model(**mllm.prepare(pictures, QUESTIONS[: len(pictures)]))
    return [[record.kept[depth] for depth in sorted(record.kept)] for record in trace.samples]


@pytest.mark.parametrize("name", [*DROPPING, "globalcom2"])
def test_replayed_on_the_model_that_chose_it_is_the_choice_itself(tiny: MLLM, pictures, name: str):
    selector = METHODS[name]()
    replay = choose(tiny, pictures, QUESTIONS, selector, 48, tiny.layers)
    assert kept(tiny, replay, pictures, 48) == kept(tiny, METHODS[name](), pictures, 48)


@pytest.mark.parametrize("match", ["equivalent", "tokens"])
@pytest.mark.parametrize("name", DROPPING)
def test_another_model_keeps_its_own_budget_of_foreign_tokens(
    tiny: MLLM, tiny_wide: MLLM, pictures, name: str, match: str
):
    selector = METHODS[name]()
    replay = choose(tiny, pictures, QUESTIONS, selector, 48, tiny_wide.layers, match)
    found = kept(tiny_wide, replay, pictures, 48, match)
    counts = list(plan(selector, 144, 48, tiny_wide.layers, match).values())
    assert [[len(stage) for stage in image] for image in found] == [counts] * len(pictures)
    own = kept(tiny_wide, METHODS[name](), pictures, 48, match)
    if name not in ("grid", "random", "hired"):  # which see the same on both
        assert found != own


def test_at_the_input_the_tokens_are_those_that_the_source_keeps_for_itself(
    tiny: MLLM, tiny_wide: MLLM, pictures
):
    replay = choose(tiny, pictures, QUESTIONS, METHODS["farthest"](), 48, tiny_wide.layers)
    assert kept(tiny_wide, replay, pictures, 48) == kept(tiny, METHODS["farthest"](), pictures, 48)


@pytest.mark.parametrize("name", MERGING)
def test_methods_that_make_new_tokens_cannot_choose_elsewhere(tiny: MLLM, pictures, name: str):
    with pytest.raises(ValueError, match="makes new tokens, of which an index says nothing"):
        choose(tiny, pictures, QUESTIONS, METHODS[name](), 48, tiny.layers)


def test_images_of_different_sizes_keep_what_was_chosen_for_each(tiny_next: MLLM, pictures):
    shapes = [pictures[0], pictures[1].resize((60, 30)), pictures[2].resize((20, 70))]
    for name in ("farthest", "pyramiddrop", "hired"):
        replay = choose(tiny_next, shapes, QUESTIONS[:3], METHODS[name](), 90, tiny_next.layers)
        assert kept(tiny_next, replay, shapes, 90) == kept(tiny_next, METHODS[name](), shapes, 90)


def test_a_choice_is_good_for_the_samples_it_was_made_for(tiny_next: MLLM, pictures):
    replay = choose(tiny_next, pictures[:1], QUESTIONS[:1], METHODS["random"](), 20, tiny_next.layers)
    with pytest.raises(ValueError, match="choose two models that cut images alike"):
        kept(tiny_next, replay, [pictures[0].resize((20, 70))], 20)
    replay = choose(tiny_next, pictures[:1], QUESTIONS[:1], METHODS["random"](), 20, tiny_next.layers)
    with pytest.raises(ValueError, match="choose two models that cut images alike"):
        kept(tiny_next, replay, pictures[:2], 20)


def test_models_with_other_visual_tokens_are_refused(tiny: MLLM, tiny_next: MLLM, tiny_qwen: MLLM):
    check_twins(tiny, tiny)
    with pytest.raises(ValueError, match="192 in a grid of .6, 6. and 144 in a grid of .12, 12."):
        check_twins(tiny_next, tiny)
    check_twins(tiny, tiny_qwen)  # as many, in the same grid, if images are as large as they may be
