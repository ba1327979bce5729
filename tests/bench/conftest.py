"""Cells and comparisons made by hand, whose statistics are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from bench.cells import Cell, Key
from bench.comparison import VANILLA, Group
from bench.evaluate import Outcome, Stage
from bench.ledger import Ledger, Shape

SHAPE = Shape(layers=4, hidden=8, intermediate=16, heads=2, kv_heads=2, head_dim=4, vocabulary=20)
TOKENS = 16

MakeOutcome = Callable[..., Outcome]
MakeGroup = Callable[..., Group]


def outcome(
    task: str, correct: Sequence[float], *, entering: Sequence[float] = (4, 4, 4, 4),
    said: Sequence[str] | None = None, kept: Sequence[int] = (0, 1, 2, 3),
) -> Outcome:  # fmt: skip
    """A run of a benchmark whose score is the mean credit; every sample is a unit."""
    credit = tuple(map(float, correct))
    return Outcome(
        task=task,
        samples=tuple(f"{task}-{number}" for number in range(len(credit))),
        predictions=tuple(said or ("right" if each else "wrong" for each in correct)),
        correct=credit,
        kept=(tuple(kept),) * len(credit),
        path=((Stage(0, tuple(kept)),) if len(kept) < TOKENS else (),) * len(credit),
        credit=credit,
        sums=tuple((each, 1.0) for each in credit),
        score=100 * sum(credit) / len(credit),
        ledger=Ledger(SHAPE, tuple(map(float, entering)), text=9.0),
        stages=(0,),
        seconds=1.0,
    )


def group(runs: Mapping[tuple[str, int], Mapping[str, Sequence[float] | str]], *, mark: str = "") -> Group:
    """Credits by (method, keep) and task; text in place of credits is why there are none."""
    cells = {}
    for (method, keep), tasks in runs.items():
        for task, told in tasks.items():
            key = Key(method, keep, task)
            whole = {"entering": [TOKENS] * 4, "kept": range(TOKENS)} if method == VANILLA else {}
            made = None if isinstance(told, str) else outcome(task, told, **whole)  # type: ignore[arg-type]
            cells[key] = Cell(
                key, {}, {"adaptive": method.startswith("own")}, made, told if made is None else ""
            )
    return Group(cells, TOKENS, mark)


@pytest.fixture(scope="session")
def make_outcome() -> MakeOutcome:
    return outcome


@pytest.fixture(scope="session")
def make_group() -> MakeGroup:
    return group
