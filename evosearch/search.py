"""The search loop: it runs a strategy batch by batch until a limit is reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from hashlib import sha256
from operator import index
from os import PathLike
from pathlib import Path
from random import Random
from typing import SupportsIndex

import numpy as np
from deap.tools import HallOfFame, Logbook

from evosearch import checkpoint as checkpoints
from evosearch.archive import Archive, Fitness, Proposals
from evosearch.budget import Budget
from evosearch.grouping import Grouping, Ints
from evosearch.individual import Individual
from evosearch.operators import best
from evosearch.rounds import alone
from evosearch.strategies import Strategy

STALE = 20  # iterations in a row without a new candidate, after which a strategy counts as converged


@dataclass(frozen=True)
class Iteration:
    """The state after an iteration, passed to callbacks; all but `indices` is also in the logbook."""

    iteration: int  # 0 is the opening batch
    evaluations: int
    best: float  # smallest loss so far
    mean: float  # of this iteration's batch
    hit_rate: float  # share of proposals so far that were seen before
    seconds: float
    indices: Ints = field(compare=False)  # [G] kept items of the best candidate so far


Callback = Callable[[Iteration], object]  # may stop the search by returning True


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a search and all evaluated candidates."""

    indices: Ints  # [G] kept items of the best candidate, ascending
    loss: float
    best: Individual  # the same as a genome
    stopped: str  # why
    iterations: int  # batches after the opening one
    seconds: float
    archive: Archive  # every evaluated candidate: indices [E, G], losses [E], hit_rate
    logbook: Logbook  # iteration, evaluations, best, mean, hit_rate, seconds
    hall_of_fame: HallOfFame  # the best individuals, best first

    @property
    def evaluations(self) -> int:
        return len(self.archive)

    @property
    def hit_rate(self) -> float:
        return self.archive.hit_rate


@dataclass
class Run:
    """The state of a search between two iterations, as saved in a checkpoint."""

    strategy: Strategy
    hall: int  # number of best individuals to remember
    leaders: list[Individual] = field(default_factory=list)  # the best individuals, best first
    archive: Archive = field(default_factory=Archive)
    logbook: Logbook = field(default_factory=Logbook)
    iteration: int = -1  # the last finished one
    improved: int = 0  # the iteration that found the best
    renewed: int = 0  # the last iteration that evaluated anything
    best: Ints | None = None
    seconds: float = 0.0
    stopped: str | None = None

    def step(self, room: int | None) -> Proposals[float | None]:
        """Run one batch: ask, look up or evaluate at most `room` new candidates, tell.

        Returns the mean loss of the batch, or None if the strategy proposed nothing.
        """
        individuals = self.strategy.ask()
        if not individuals:
            return None
        indices = self.strategy.decode(individuals)
        losses, new = yield from self.archive.evaluate(indices, room)
        known = [loss for loss in losses if loss is not None]
        for individual, loss in zip(individuals, losses, strict=True):
            if loss is not None:
                individual.fitness.wvalues = (-loss,)  # DEAP's form of a loss
        self.iteration += 1
        if new:
            self.renewed = self.iteration
            bar = self.leaders[-1].fitness.wvalues if len(self.leaders) == self.hall else ()
            found = [row for row in new if individuals[row].fitness.wvalues > bar]
            if found:
                leader = max(found, key=lambda row: individuals[row].fitness.wvalues)
                if self.best is None or individuals[leader].loss < self.leaders[0].loss:
                    self.improved, self.best = self.iteration, indices[leader].copy()
                self.leaders = best([*self.leaders, *(individuals[row].clone() for row in found)], self.hall)
        if len(known) == len(losses):  # a truncated batch is the last one: no need to learn from it
            self.strategy.tell(individuals, known)
        return sum(known) / len(known)

    def record(self, mean: float) -> None:
        self.logbook.record(
            iteration=self.iteration, evaluations=len(self.archive), best=self.leaders[0].loss,
            mean=mean, hit_rate=self.archive.hit_rate, seconds=self.seconds,
        )  # fmt: skip

    def progress(self) -> Iteration:
        assert self.best is not None
        return Iteration(**self.logbook[-1], indices=self.best)


def search(
    space: Grouping,
    fitness: Fitness,
    strategy: Strategy,
    *,
    seed: SupportsIndex = 0,
    budget: Budget | SupportsIndex = 408,
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    hall: int = 10,
    checkpoint: str | PathLike[str] | None = None,
    problem: str = "",
) -> Result:
    """Find the items, one per group, for which `fitness` is smallest.

    `fitness` takes item indices [P, G], rows ascending, and returns P finite losses, lower is better; it is
    never called twice with the same candidate. `budget` is a `Budget` or a number of evaluations. Default:
    408, the cost of the paper's ten iterations with surviving parents (the paper gives no number). `patience`
    is the number of iterations without improvement after which the search stops. Callbacks get an `Iteration`
    after every iteration; one that returns True stops the search. `strategy` is not changed, so it can be
    reused.

    With a `checkpoint` path the state is saved after every iteration, before the callbacks. If the file
    exists, the search resumes from it and ends exactly as without the interruption; a finished search returns
    its result at once. `problem` identifies the fitness (a sample, a model) in the checkpoint.

    ValueError for losses that are not finite or have the wrong shape, for operators that return anything but
    individuals of this space, for a checkpoint of another configuration (which includes the budget), and for
    a strategy that cannot be pickled into a checkpoint, such as one with a lambda as operator.
    """
    proposals = propose(
        space, strategy, seed=seed, budget=budget, patience=patience, callbacks=callbacks, hall=hall,
        checkpoint=checkpoint, problem=problem,
    )  # fmt: skip
    return alone(proposals, fitness)


def propose(
    space: Grouping,
    strategy: Strategy,
    *,
    seed: SupportsIndex = 0,
    budget: Budget | SupportsIndex = 408,
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    hall: int = 10,
    checkpoint: str | PathLike[str] | None = None,
    problem: str = "",
) -> Proposals[Result]:
    """Run `search` as a generator that yields candidates and is sent their losses.

    It is for searches that advance `together`; `seconds` then include the time of the other searches.
    """
    limits = budget if isinstance(budget, Budget) else Budget(evaluations=_whole("budget", budget))
    seed = _whole("seed", seed)
    if patience is not None and patience < 1:
        raise ValueError(f"patience={patience}: choose 1 or more iterations, or None")
    if not isinstance(strategy, Strategy):
        raise ValueError(f"strategy={strategy!r:.80}: give a strategy such as Evolution()")
    if hall < 1:
        raise ValueError(f"hall={hall}: the hall of fame needs room for at least 1")
    path = None if checkpoint is None else Path(checkpoint)
    configuration = {} if path is None else _configuration(space, strategy, limits) | {
        "seed": seed, "patience": patience, "hall": hall, "problem": problem,
    }  # fmt: skip
    if path is not None and path.exists():
        run = checkpoints.load(path, configuration)
        assert isinstance(run, Run)
    else:
        run = Run(copy(strategy), hall)  # a shallow copy: `begin` creates all state
        run.strategy.begin(space, Random(seed))
        if path is not None:
            checkpoints.save(path, configuration, run)  # fail before the first evaluation
    started = time.perf_counter() - run.seconds
    while run.stopped is None:
        room = None if limits.evaluations is None else limits.evaluations - len(run.archive)
        mean = yield from run.step(room)
        run.seconds = time.perf_counter() - started
        if mean is None:
            run.stopped = "the strategy has finished"
        else:
            run.record(mean)
            run.stopped = _reason(run, limits, patience)
        if path is not None:
            checkpoints.save(path, configuration, run)
        if mean is not None:
            halting = [_name(callback) for callback in callbacks if _is_true(callback(run.progress()))]
            run.stopped = run.stopped or (f"callback {halting[0]} asked to stop" if halting else None)
    if run.best is None:
        raise ValueError(f"{type(strategy).__name__} proposed no candidate at all")
    hall_of_fame = HallOfFame(hall)
    hall_of_fame.update(run.leaders[::-1])  # reversed: it sorts the later of two equals first
    leader = hall_of_fame[0]
    return Result(
        run.best, leader.loss, leader, run.stopped, run.iteration, run.seconds, run.archive, run.logbook,
        hall_of_fame,
    )  # fmt: skip


def _whole(name: str, value: SupportsIndex) -> int:
    """Convert an integer of any type, numpy's included."""
    try:
        return index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: give a whole number") from None


def _configuration(space: Grouping, strategy: Strategy, limits: Budget) -> dict[str, object]:
    budget = {f"budget {name}": limit for name, limit in vars(limits).items()}
    groups = f"{len(space)} of {space.items} items, {sha256(repr(space.groups).encode()).hexdigest()[:12]}"
    return {**strategy.settings(), **budget, "groups": groups}


def _reason(run: Run, limits: Budget, patience: int | None) -> str | None:
    spent = limits.spent(len(run.archive), run.iteration, run.seconds)
    if spent:
        return spent
    if patience is not None and run.iteration - run.improved >= patience:
        return f"no improvement in {patience} iterations"
    if run.iteration - run.renewed >= STALE:
        return f"converged: no new candidate in {STALE} iterations"
    return None


def _is_true(answer: object) -> bool:
    """Whether the answer of a callback is True, Python's or numpy's, and not only a true value."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _name(callback: Callback) -> str:
    return getattr(callback, "__qualname__", type(callback).__name__)
