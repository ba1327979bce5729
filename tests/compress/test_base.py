from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from compress.base import (
    INPUT,
    VISION,
    Scorer,
    Selection,
    Selector,
    View,
    entering,
    plan,
    scaled_layer,
    top_k,
)


@dataclass
class Stages(Selector):
    """Acts at given depths; the last stage keeps `keep`, each earlier one twice as many as the next."""

    depths: list[int] = field(default_factory=lambda: [INPUT])

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        ordered = sorted(self.depths, reverse=True)
        return {depth: min(tokens, keep * 2**place) for place, depth in enumerate(ordered)}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(keep))


class Norm(Scorer):
    def score(self, view: View) -> Tensor:
        return view.hidden.norm(dim=-1)


def view(hidden: Tensor) -> View:
    tokens = len(hidden)
    return View(
        0, hidden, visual=hidden, text=hidden.new_empty(0, 2), index=torch.arange(tokens), grid=(1, tokens)
    )


def test_top_k_returns_ascending_indices_of_the_largest():
    assert top_k(torch.tensor([1.0, 9.0, 3.0, 7.0]), 2).tolist() == [1, 3]


def test_top_k_lets_the_lower_index_win_among_equals():
    assert top_k(torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]), 2).tolist() == [1, 2]
    assert top_k(torch.zeros(1000), 3).tolist() == [0, 1, 2]


def test_a_scorer_keeps_the_highest_scores():
    hidden = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 0.0], [2.0, 0.0]])
    assert Norm().select(view(hidden), 2).index.tolist() == [1, 3]


@pytest.mark.parametrize(("layers", "expected"), [(32, 2), (12, 1), (28, 2), (6, 1), (2, 1), (64, 4)])
def test_the_papers_layer_scales_with_depth(layers: int, expected: int):
    assert scaled_layer(2, layers) == expected


@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_before_the_decoder_average_and_nominal_are_the_budget(depth: int):
    for accounting in ("average", "nominal"):
        assert plan(Stages([depth]), 144, 16, 12, accounting) == {depth: 16}


def test_a_late_stage_keeps_less_so_that_the_average_is_the_budget():
    schedule = plan(Stages([1]), 144, 16, 12)
    assert schedule == {1: 4}  # (144 + 11 * 4) / 12 = 15.7 is nearer to 16 than (144 + 11 * 5) / 12 = 16.6
    assert plan(Stages([2]), 576, 192, 32) == {2: 166}  # the published equal-average counts
    assert plan(Stages([2]), 576, 64, 32) == {2: 30}


def test_nominal_counts_what_is_left_after_the_last_stage():
    assert plan(Stages([1]), 144, 16, 12, "nominal") == {1: 16}
    assert plan(Stages([1, 3, 8]), 144, 10, 12, "nominal") == {1: 40, 3: 20, 8: 10}


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
    assert plan(Stages([1, 3]), 144, 80, 12, "nominal") == {3: 80}


def test_a_budget_above_the_image_names_the_range():
    with pytest.raises(ValueError, match="keep=145: choose between 1 and the 144 visual tokens"):
        plan(Stages(), 144, 145, 12)


@pytest.mark.parametrize("keep", [0, -1, 16.0, True])
def test_what_is_no_budget_is_refused_with_what_is(keep: object):
    with pytest.raises(ValueError, match=f"keep={keep}: give a count of visual tokens from 1, or a ratio"):
        plan(Stages(), 144, keep, 12)  # type: ignore[arg-type]


def test_an_impossible_average_names_the_smallest_possible_one():
    with pytest.raises(ValueError, match="the smallest average over 12 layers is 13"):
        plan(Stages([1]), 144, 12, 12)
    assert plan(Stages([1]), 144, 13, 12) == {1: 1}
    assert plan(Stages([1]), 144, 12, 12, "nominal") == {1: 12}


def test_a_depth_behind_the_last_layer_is_refused():
    with pytest.raises(ValueError, match="acts at depth 12.*up to 11"):
        plan(Stages([12]), 144, 16, 12)


def test_an_unknown_accounting_is_refused():
    with pytest.raises(ValueError, match="'average' or 'nominal'"):
        plan(Stages(), 144, 16, 12, "mean")  # type: ignore[arg-type]


def test_a_missing_signal_says_so():
    with pytest.raises(ValueError, match="does not exist"):
        view(torch.zeros(3, 2)).cls(-2)
