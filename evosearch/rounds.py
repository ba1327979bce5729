"""Drivers of searches: searches only propose candidates, so that many of them can share one batch.

A proposer is a generator that yields candidates, item indices [P, G], is sent their losses [P], and returns
its result at the end. `alone` drives one proposer, `together` any number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import TypeAlias, TypeVar

import numpy.typing as npt

from evosearch.archive import Fitness, Proposals
from evosearch.grouping import Ints

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

Answers: TypeAlias = Mapping[K, "npt.ArrayLike | ValueError"]
Launch: TypeAlias = Callable[[Mapping[K, Ints]], Callable[[], Answers[K]]]


def alone(proposals: Proposals[T], fitness: Fitness) -> T:
    """Run one proposer with `fitness` and return its result."""
    try:
        candidates = next(proposals)
        while True:
            candidates = proposals.send(fitness(candidates))
    except StopIteration as end:
        result: T = end.value
        return result


def together(
    proposers: Mapping[K, Proposals[T]], launch: Launch[K], lanes: int = 1
) -> dict[K, T | ValueError]:
    """Run all proposers and return their results, or the ValueErrors that they raised, by key.

    They advance in rounds: `launch` gets the candidates of many proposers at once and returns a function that
    waits for the losses. A ValueError in place of losses ends only its own proposer. With two `lanes` the
    proposers alternate in two halves: while one half proposes, the losses of the other are computed on an
    asynchronous device.
    """
    results: dict[K, T | ValueError] = {}

    def advance(key: K, answer: npt.ArrayLike | ValueError | None) -> Ints | None:
        proposer = proposers[key]
        try:
            if isinstance(answer, ValueError):
                return proposer.throw(answer)
            return next(proposer) if answer is None else proposer.send(answer)
        except StopIteration as end:
            results[key] = end.value
        except ValueError as problem:
            results[key] = problem
        return None

    def round_of(answers: Mapping[K, npt.ArrayLike | ValueError | None]) -> None:
        asked = {key: advance(key, answer) for key, answer in answers.items()}
        if open_ := {key: candidates for key, candidates in asked.items() if candidates is not None}:
            under_way.append(launch(open_))

    under_way: deque[Callable[[], Answers[K]]] = deque()
    keys = list(proposers)
    for lane in range(lanes):
        round_of(dict.fromkeys(keys[lane::lanes]))
    while under_way:
        round_of(under_way.popleft()())
    return {key: results[key] for key in keys}
