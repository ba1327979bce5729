from __future__ import annotations

import pytest
import torch

from baselines.pyramiddrop import PyramidDrop
from compress.attach.session import attach
from compress.base import View
from compress.budget import entering, plan
from compress.models.loading import MLLM


def view(scores: list[float], entered: int = 0) -> View:
    hidden = torch.zeros(len(scores), 2)
    attention = torch.tensor([scores, [0.0] * len(scores)])[:, None]  # two heads, one query
    return View(
        depth=10,
        hidden=hidden,
        visual=hidden,
        text=hidden,
        index=torch.arange(len(scores)),
        grid=(1, len(scores)),
        inputs=torch.zeros(entered, 2),
        attention=lambda layer, rows: {10: attention}[layer] if list(rows) == [-1] else None,  # type: ignore
    )


def test_it_keeps_what_the_last_token_looks_at_in_the_layer_behind_the_stage():
    assert PyramidDrop().select(view([0.1, 0.4, 0.0, 0.3]), 2).index.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("budget", "counts"),
    [(192, [312, 156, 78]), (128, [184, 92, 46]), (64, [56, 28, 14])],
)
def test_halving_meets_the_budgets_of_the_tables_exactly(budget: int, counts: list[int]):
    schedule = plan(PyramidDrop(), 576, budget, 32)
    assert schedule == dict(zip((2, 10, 20), counts, strict=True))
    assert sum(entering(schedule, 576, 32)) == 32 * budget


def test_the_official_pyramid_is_reachable():
    assert plan(PyramidDrop(stages="8/16/24"), 576, 72, 32, "tokens") == {8: 288, 16: 144, 24: 72}
    assert plan(PyramidDrop(stages="8/16/24"), 576, 270, 32) == {8: 288, 16: 144, 24: 72}


def test_one_ratio_for_all_stages_can_be_solved_for_the_budget():
    solved = plan(PyramidDrop(stages="8/16/24", ratio=None), 576, 192, 32)
    assert abs(sum(entering(solved, 576, 32)) / 32 - 192) <= 0.5
    ratios = [after / before for before, after in zip([576, *solved.values()], solved.values(), strict=False)]
    assert all(abs(ratio - 0.2531) < 0.01 for ratio in ratios)


def test_no_stage_is_asked_for_more_than_there_are():
    assert PyramidDrop().schedule(144, 100, 12) == {1: 144, 4: 144, 8: 100}


def test_stages_that_coincide_are_one_with_the_last_count():
    assert PyramidDrop().schedule(144, 16, 2) == {1: 16}


def test_adaptive_takes_the_official_ratios_of_the_tokens_that_entered():
    method = PyramidDrop(adaptive=True)
    assert [method.share(576, now) for now in (576, 288, 144)] == [288, 144, 72]
    assert [method.share(100, now) for now in (100, 50, 25)] == [50, 25, 12]
    assert method.share(3, 1) == 1
    assert method.select(view([0.1, 0.4, 0.0, 0.3, 0.2, 0.0, 0.0, 0.0], entered=16), 0).index.tolist() == [
        0,
        1,
        3,
        4,
    ]


def test_adaptive_halves_at_every_stage_whatever_the_budget(tiny: MLLM, pictures):
    with attach(tiny, PyramidDrop(stages="8/16/24", adaptive=True), 10) as trace:
        tiny.answer(pictures[:2], ["what color is the star ?", "how many ?"], max_new_tokens=1)
    assert [sample.entering for sample in trace.samples] == [[144, 144, 72, 36, 18, 18]] * 2


def test_a_live_stage_reads_the_row_that_its_layer_computes(tiny: MLLM, pictures, tiny_folder):
    from transformers import AutoModelForImageTextToText

    eager = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    with torch.no_grad(), attach(tiny, PyramidDrop(stages="8"), 40, match="tokens") as trace:
        tiny.model(**inputs)
        attention = eager(**inputs, output_attentions=True).attentions[2][0, :, -1, 2:146].mean(0)
    assert trace.samples[0].kept == {2: attention.topk(40).indices.sort().values.tolist()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": "2,10"}, "with slashes"),
        ({"stages": ""}, "with slashes"),
        ({"ratio": 1.0}, "between 0 and 1"),
        ({"ratio": None, "adaptive": True}, "choose one"),
    ],
)
def test_options_without_sense_are_refused(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        PyramidDrop(**options)


def test_positions_are_renumbered():
    assert PyramidDrop().positions == "compact"
