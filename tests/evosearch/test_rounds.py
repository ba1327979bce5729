"""Searches that share batches end exactly as each of them alone."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest

from evosearch import STRATEGIES, Evolution, HillClimb, alone, propose, search, together


def counting(start: int, rounds: int) -> Generator[np.ndarray, np.ndarray, float]:
    """Asks for the losses of its own number, again and again; returns their sum."""
    total = 0.0
    for _ in range(rounds):
        total += (yield np.array([[start]])).item()
    return total


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_rounds_hold_whoever_has_not_finished(lanes: int) -> None:
    batches: list[dict[str, int]] = []
    waiting = []

    def launch(asked):
        batches.append({key: int(candidates[0, 0]) for key, candidates in asked.items()})
        waiting.append(len(batches))

        def collect():
            waiting.pop(0)
            return {key: candidates[0] * 10.0 for key, candidates in asked.items()}

        assert len(waiting) <= lanes
        return collect

    runs = {"a": counting(1, 3), "b": counting(2, 1), "c": counting(3, 0), "d": counting(4, 2)}
    assert together(runs, launch, lanes) == {"a": 30, "b": 20, "c": 0, "d": 80}
    assert sum(map(len, batches)) == 6
    if lanes == 1:
        assert batches == [{"a": 1, "b": 2, "d": 4}, {"a": 1, "d": 4}, {"a": 1}]
    if lanes == 2:  # a with c, b with d: the second lane is launched before the first is waited for
        assert batches == [{"a": 1}, {"b": 2, "d": 4}, {"a": 1}, {"d": 4}, {"a": 1}]


def test_what_cannot_be_judged_ends_alone() -> None:
    def launch(asked):
        bad = ValueError("the image is broken")
        return lambda: {key: bad if key == "b" else candidates[0] for key, candidates in asked.items()}

    found = together({"a": counting(1, 2), "b": counting(2, 2)}, launch)
    assert found["a"] == 2 and str(found["b"]) == "the image is broken"


@pytest.mark.parametrize("lanes", [1, 2])
def test_searches_together_equal_searches_alone(lanes: int, planted) -> None:
    problems = {seed: planted(groups=12, size=5, seed=seed) for seed in range(5)}
    strategies = [STRATEGIES[name]() for name in ("evolution", "annealing", "eda", "random")] + [HillClimb()]
    searches = {
        seed: propose(problem.space, strategies[seed], seed=seed, budget=100 + seed)
        for seed, problem in problems.items()
    }

    def launch(asked):
        return lambda: {seed: problems[seed](indices) for seed, indices in asked.items()}

    for seed, found in together(searches, launch, lanes).items():
        expected = search(
            problems[seed].space, problems[seed], strategies[seed], seed=seed, budget=100 + seed
        )
        assert np.array_equal(found.archive.indices, expected.archive.indices)
        assert found.loss == expected.loss and found.evaluations == 100 + seed


def test_one_is_driven_like_any_other(planted) -> None:
    problem = planted(groups=6, size=4)
    found = alone(propose(problem.space, Evolution(), budget=60), problem)
    assert found.indices.tolist() == search(problem.space, problem, Evolution(), budget=60).indices.tolist()
