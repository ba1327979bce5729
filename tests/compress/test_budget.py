"""From a budget to a schedule: every method spends what a free method before the decoder spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.none import KeepAll
from compress.base import INPUT, VISION, Selection, Selector, View
from compress.budget import MATCHES, Match, entering, plan, solve


@dataclass
class Stages(Selector):
    """Acts at given depths; the last stage keeps `keep`, each earlier one twice as many as the next."""

    depths: list[int] = field(default_factory=lambda: [INPUT])

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        ordered = sorted(self.depths, reverse=True)
        return {depth: min(tokens, keep * 2**place) for place, depth in enumerate(ordered)}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(keep))


@dataclass
class Thresholds(Stages):
    adaptive: bool = True


def squares(counts: Sequence[float]) -> float:
    """FLOPs of a decoder that only attends: early tokens cost more than late ones."""
    return sum(count**2 for count in counts)


def solved(selector: Selector, keep: int, match: Match, own: float = 0.0) -> int:
    return solve(selector, 144, keep, 12, match, squares, own)


@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_before_the_decoder_both_counts_are_the_budget(depth: int):
    for match in ("equivalent", "tokens"):
        assert plan(Stages([depth]), 144, 16, 12, match) == {depth: 16}


def test_a_late_stage_keeps_less_so_that_the_average_is_the_budget():
    schedule = plan(Stages([1]), 144, 16, 12)
    assert schedule == {1: 4}  # (144 + 11 * 4) / 12 = 15.7 is nearer to 16 than (144 + 11 * 5) / 12 = 16.6
    assert plan(Stages([2]), 576, 192, 32) == {2: 166}  # the published equal-average counts
    assert plan(Stages([2]), 576, 64, 32) == {2: 30}


def test_match_tokens_counts_what_is_left_after_the_last_stage():
    assert plan(Stages([1]), 144, 16, 12, "tokens") == {1: 16}
    assert plan(Stages([1, 3, 8]), 144, 10, 12, "tokens") == {1: 40, 3: 20, 8: 10}


@pytest.mark.parametrize("keep", range(31, 144))
def test_several_stages_meet_the_average_to_the_nearest_token(keep: int):
    counts = entering(plan(Stages([1, 3, 8]), 144, keep, 12), 144, 12)
    assert abs(sum(counts) / 12 - keep) <= 0.5
    assert counts == sorted(counts, reverse=True)


def test_between_two_schedules_the_nearest_average_wins():
    # 60/30/15 spends 39.5 and 64/32/16 spends 41.3; this spends 40.25, and 61/30/15 would 39.7
    assert plan(Stages([1, 3, 8]), 144, 40, 12) == {1: 62, 3: 31, 8: 15}
    assert plan(Stages([2, 10, 20]), 576, 192, 32) == {2: 312, 10: 156, 20: 78}  # exact without


def test_between_two_schedules_the_tower_keeps_to_whole_windows():
    class Windows(Stages):
        def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
            return {VISION: (keep + 80) // 8 * 8, 3: 3 * keep, 8: keep}

    for keep in range(60, 100):
        assert plan(Windows(), 144, keep, 12).get(VISION, 144) % 8 == 0


def test_the_ledger_counts_tokens_entering_each_layer():
    assert entering({2: 5, 4: 1}, 9, 6) == [9, 9, 5, 5, 1, 1]
    assert entering({VISION: 7, 1: 3}, 9, 3) == [7, 3, 3]


def test_keeping_all_and_stages_that_drop_nothing_are_no_stages():
    assert plan(Stages([1]), 144, 144, 12) == {}
    assert plan(Stages([1, 3]), 144, 80, 12, "tokens") == {3: 80}


def test_a_budget_of_all_tokens_is_no_compression_whatever_the_method_would_drop():
    class Half(Stages):
        def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
            return {1: keep // 2}

    assert plan(Half(), 144, 144, 12, "tokens") == {}


def test_a_budget_above_the_image_names_the_range():
    with pytest.raises(ValueError, match="keep=145: choose between 1 and the 144 visual tokens"):
        plan(Stages(), 144, 145, 12)


@pytest.mark.parametrize("keep", [0, -1, 16.0, True])
def test_what_is_no_budget_is_refused_with_what_is(keep: object):
    with pytest.raises(ValueError, match=f"keep={keep}: give a count of visual tokens from 1, or a ratio"):
        plan(Stages(), 144, keep, 12)  # type: ignore[arg-type]


def test_an_impossible_average_names_the_smallest_possible_one():
    with pytest.raises(ValueError, match="keep=12 is out of reach for Stages .*the nearest budget is 13$"):
        plan(Stages([1]), 144, 12, 12)
    assert plan(Stages([1]), 144, 13, 12) == {1: 1}
    assert plan(Stages([1]), 144, 12, 12, "tokens") == {1: 12}
    with pytest.raises(ValueError, match="the nearest budget is 2$"):
        plan(Stages([1]), 13, 1, 12)  # (13 + 11 * 1) / 12 is exactly 2


def test_a_depth_behind_the_last_layer_is_refused():
    with pytest.raises(ValueError, match="acts at depth 12.*up to 11"):
        plan(Stages([12]), 144, 16, 12)


@pytest.mark.parametrize("match", ["mean", "flops"])
def test_a_budget_without_a_schedule_is_refused(match: str):
    with pytest.raises(ValueError, match=f"match='{match}': .*choose 'equivalent' or 'tokens'"):
        plan(Stages(), 144, 16, 12, match)  # type: ignore[arg-type]


@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("keep", [1, 16, 48, 143, 144])
@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_before_the_decoder_all_budgets_are_the_same(match: Match, keep: int, depth: int):
    assert solved(Grid(depth=depth), keep, match) == keep


def test_tokens_are_those_after_the_last_stage():
    assert solved(FastV(), 5, "tokens") == 5
    assert solved(Stages([3, 6]), 30, "tokens") == 30


def test_the_count_solved_for_equivalent_tokens_has_the_schedule_of_the_plan():
    assert solved(FastV(), 16, "equivalent") == 4  # (144 + 11 * 4) / 12 = 15.7
    for selector in (FastV(), Stages([3, 6])):
        for keep in (60, 100):
            last = solved(selector, keep, "equivalent")
            assert plan(selector, 144, last, 12, "tokens") == plan(selector, 144, keep, 12)


@pytest.mark.parametrize("selector", [FastV(), FastV(layer=8), Stages([3, 6])])
@pytest.mark.parametrize("keep", [80, 100])
def test_flops_are_as_near_to_the_yardstick_s_as_whole_tokens_allow(selector: Selector, keep: int):
    def gap(last: int) -> float:
        return abs(squares(entering(plan(selector, 144, last, 12, "tokens"), 144, 12)) - 12 * keep**2)

    reachable = squares(entering(plan(selector, 144, 1, 12, "tokens"), 144, 12)) <= 12 * keep**2
    if not reachable:
        with pytest.raises(ValueError, match="out of reach"):
            solved(selector, keep, "flops")
        return
    assert gap(solved(selector, keep, "flops")) == min(map(gap, range(1, 145)))


def test_the_selection_s_own_cost_counts_where_flops_are_matched():
    own = squares([48] * 12) - squares([38] * 12)
    assert solved(Grid(), 48, "flops", own) == 38
    assert solved(Grid(), 48, "equivalent", own) == 48
    nearly = squares([48] * 12) - squares([37] * 12) - 12  # one less than what 37 tokens leave for it
    assert solved(Grid(), 48, "flops", nearly) == 37


@pytest.mark.parametrize("match", ["equivalent", "flops"])
def test_out_of_reach_names_the_nearest_budget(match: Match):
    nearest = {"equivalent": 13, "flops": 42}[match]  # 144 / sqrt(12) = 41.6
    said = (
        f"keep=12 is out of reach for FastV with match={match} on 144 visual tokens: "
        f"up to 144 enter the layers before its last stage, .* {nearest}$"
    )
    with pytest.raises(ValueError, match=said):
        solved(FastV(), 12, match)
    solved(FastV(), nearest, match)


def test_what_never_acts_or_decides_itself_has_nothing_to_solve():
    for match in MATCHES:
        assert solved(KeepAll(), 16, match) == 16
        assert solved(Thresholds(), 16, match) == 16


@pytest.mark.parametrize(
    ("keep", "said"), [(0, "keep=0: give a count of visual tokens from 1"),
                       (145, "keep=145: choose between 1 and the 144")],
)  # fmt: skip
def test_budgets_outside_the_image_are_refused(keep: int, said: str):
    with pytest.raises(ValueError, match=said):
        solved(Grid(), keep, "equivalent")
