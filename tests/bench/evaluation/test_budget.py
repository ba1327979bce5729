"""Equal budgets: every method spends what a free method before the decoder spends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pytest

from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.none import KeepAll
from bench.evaluation.budget import MEANING, Footing, Match
from bench.evaluation.ledger import Ledger, Shape
from compress.base import INPUT, VISION, Selection, Selector, View, entering, plan

SHAPE = Shape(layers=12, hidden=96, intermediate=192, heads=4, kv_heads=4, head_dim=24, vocabulary=207)
MATCHES: tuple[Match, ...] = get_args(Match)


@dataclass
class Staged(Selector):
    """Halves at every stage, down to `keep`."""

    stages: tuple[int, ...] = (3, 6)

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        last = len(self.stages) - 1
        return {depth: min(tokens, keep * 2 ** (last - i)) for i, depth in enumerate(self.stages)}

    def select(self, view: View, keep: int) -> Selection:
        raise NotImplementedError


@dataclass
class Thresholds(Staged):
    adaptive: bool = True


def footing(match: Match, text: float = 20) -> Footing:
    return Footing(match, 144, SHAPE, text)


def counts(selector: Selector, last: int) -> list[int]:
    return entering(plan(selector, 144, last, 12, "nominal"), 144, 12)


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("keep", [1, 16, 48, 143, 144])
@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_before_the_decoder_all_budgets_are_the_same(match: Match, keep: int, depth: int) -> None:
    assert footing(match).solve(Grid(depth=depth), keep) == keep


def test_tokens_are_those_after_the_last_stage() -> None:
    assert footing("tokens").solve(FastV(), 5) == 5
    assert footing("tokens").solve(Staged(), 30) == 30


def test_equivalent_tokens_are_the_mean_over_layers() -> None:
    last = footing("equivalent").solve(FastV(), 16)
    assert last == 4  # (144 + 11 * 4) / 12 = 15.7
    for selector in (FastV(), Staged()):
        for keep in (48, 60, 100):
            last = footing("equivalent").solve(selector, keep)
            assert counts(selector, last) == entering(plan(selector, 144, keep, 12, "average"), 144, 12)


@pytest.mark.parametrize("selector", [FastV(), FastV(layer=8), Staged()])
@pytest.mark.parametrize("keep", [60, 90])
def test_flops_are_as_near_to_the_yardstick_s_as_whole_tokens_allow(selector: Selector, keep: int) -> None:
    target = Ledger(SHAPE, [keep] * 12, text=20).prefill_flops
    last = footing("flops").solve(selector, keep)

    def gap(tokens: int) -> float:
        return abs(Ledger(SHAPE, counts(selector, tokens), text=20).prefill_flops - target)

    assert gap(last) == min(gap(tokens) for tokens in range(1, 145))


def test_attention_makes_early_tokens_dearer_in_flops_than_in_tokens() -> None:
    assert footing("flops").solve(FastV(), 48) < footing("equivalent").solve(FastV(), 48)


def test_choosing_is_paid_for_in_tokens() -> None:
    free = footing("flops").solve(Grid(), 48)
    token = footing("flops").target(48) - footing("flops").target(47)
    assert footing("flops").solve(Grid(), 48, selection=10 * token) == free - 10
    assert footing("equivalent").solve(Grid(), 48, selection=10 * token) == 48


@pytest.mark.parametrize(
    ("match", "keep", "nearest"), [("equivalent", 12, 13), ("equivalent", 1, 13), ("flops", 12, 16)]
)
def test_out_of_reach_names_the_nearest_budget(match: Match, keep: int, nearest: int) -> None:
    said = (
        f"keep={keep} is out of reach for FastV under --match {match} on 144 visual tokens: "
        f"up to 144 enter the layers before its last stage, .* {nearest}$"
    )
    with pytest.raises(ValueError, match=said):
        footing(match).solve(FastV(), keep)
    assert footing(match).solve(FastV(), nearest) in (1, 2)


def test_choosing_that_costs_more_than_the_budget_is_out_of_reach() -> None:
    token = footing("flops").target(48) - footing("flops").target(47)
    with pytest.raises(ValueError, match="keep=8 .*: its choosing alone costs more; the nearest budget is"):
        footing("flops").solve(Grid(), 8, selection=20 * token)


def test_choosing_that_costs_more_than_it_saves_is_out_of_reach_at_any_budget() -> None:
    with pytest.raises(ValueError, match="spends more than the untouched model at any budget"):
        footing("flops").solve(Grid(), 48, selection=1e12)


def test_what_never_acts_or_decides_itself_has_nothing_to_solve() -> None:
    for match in MATCHES:
        assert footing(match).solve(KeepAll(), 16) == 16
        assert footing(match).solve(Thresholds(), 16) == 16
        assert match in MEANING


@pytest.mark.parametrize(
    ("keep", "said"), [(0, "keep=0: give a count of visual tokens from 1"),
                       (145, "keep=145: choose between 1 and the 144")],
)  # fmt: skip
def test_budgets_outside_the_image_are_refused(keep: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        footing("equivalent").solve(Grid(), keep)
