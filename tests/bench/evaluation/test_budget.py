"""Budgets of equal FLOPs: a method spends what a free method before the decoder spends on the same prompt."""

from __future__ import annotations

from typing import get_args

import pytest

from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.pyramiddrop import PyramidDrop
from bench.evaluation.budget import MEANING, flops_of
from bench.evaluation.ledger import DecoderShape, Ledger
from compress.base import Selector
from compress.budget import Match, entering, plan, solve

SHAPE = DecoderShape(layers=12, hidden=96, intermediate=192, heads=4, kv_heads=4, head_dim=24, vocabulary=207)
FLOPS = flops_of(SHAPE, text=20)
TOKEN = FLOPS([48] * 12) - FLOPS([47] * 12)


def solved(selector: Selector, keep: int, match: Match = "flops", own: float = 0.0) -> int:
    return solve(selector, 144, keep, 12, match, FLOPS, own)


@pytest.mark.parametrize("selector", [FastV(), FastV(layer=8), PyramidDrop()])
@pytest.mark.parametrize("keep", [60, 90])
def test_flops_are_as_near_to_the_yardstick_s_as_whole_tokens_allow(selector: Selector, keep: int) -> None:
    target = Ledger(SHAPE, [keep] * 12, text=20).prefill_flops

    def gap(last: int) -> float:
        counts = entering(plan(selector, 144, last, 12, "tokens"), 144, 12)
        return abs(Ledger(SHAPE, counts, text=20).prefill_flops - target)

    assert gap(solved(selector, keep)) == min(map(gap, range(1, 145)))


def test_attention_makes_early_tokens_dearer_in_flops_than_in_tokens() -> None:
    assert solved(FastV(), 48) < solved(FastV(), 48, "equivalent")


def test_choosing_is_paid_for_in_tokens() -> None:
    assert solved(Grid(), 48, own=10 * TOKEN) == solved(Grid(), 48) - 10


def test_out_of_reach_names_the_nearest_budget() -> None:
    with pytest.raises(ValueError, match="keep=12 is out of reach for FastV with match=flops .* 16$"):
        solved(FastV(), 12)
    assert solved(FastV(), 16) in (1, 2)


def test_choosing_that_costs_more_than_the_budget_is_out_of_reach() -> None:
    with pytest.raises(ValueError, match="keep=8 .*: its own selection alone costs more; the nearest budget"):
        solved(Grid(), 8, own=20 * TOKEN)


def test_choosing_that_costs_more_than_it_saves_is_out_of_reach_at_any_budget() -> None:
    with pytest.raises(ValueError, match="spends more than the untouched model at any budget"):
        solved(Grid(), 48, own=1e12)


def test_every_budget_has_its_words() -> None:
    assert set(MEANING) == set(get_args(Match))
