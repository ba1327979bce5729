"""Time a search without its losses: milliseconds per generation, beside DEAP's own loop and pymoo.

    python -m bench.speed.engine

All libraries solve the same problem: the sum of a cost per kept item, 64 groups of 9, a population of 48 with
12 survivors, half-split or one-point crossover, and a mutation of every fifth pick. The libraries take turns
in every round. Times are those of the thread, so other work on the machine affects them less. pymoo takes
part if it is installed (pip install 'evocomp[benchmark]').
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import click
import numpy as np
from deap import algorithms, base, creator, tools

from bench.console import option, progress, say, show_table
from bench.evaluation.history import put_json
from evosearch import Evolution, Grouping, search

GROUPS, SIZE, POPULATION, PARENTS = 64, 9, 48, 12


@cache
def problem(seed: int = 0) -> tuple[Grouping, np.ndarray[Any, Any]]:
    """Shuffled groups and a cost for each item."""
    order = list(range(GROUPS * SIZE))
    Random(seed).shuffle(order)
    space = Grouping(tuple(tuple(order[group::GROUPS]) for group in range(GROUPS)), len(order))
    return space, np.random.default_rng(seed).random(len(order))


def evosearch(generations: int, seed: int) -> None:
    space, cost = problem()
    strategy = Evolution(POPULATION, PARENTS, iterations=generations)
    search(space, lambda kept: cost[kept].sum(1), strategy, seed=seed, budget=10**9)


def deap(generations: int, seed: int) -> None:
    """`eaSimple` as in its documentation, with its default clone, one loss at a time."""
    space, cost = problem()
    costs = [[float(cost[item]) for item in group] for group in space.groups]
    if not hasattr(creator, "BenchmarkIndividual"):
        creator.create("BenchmarkLoss", base.Fitness, weights=(-1.0,))
        creator.create("BenchmarkIndividual", list, fitness=creator.BenchmarkLoss)
    box = base.Toolbox()
    box.register("gene", random.randrange, SIZE)
    box.register("individual", tools.initRepeat, creator.BenchmarkIndividual, box.gene, GROUPS)
    box.register("evaluate", lambda one: (sum(row[pick] for row, pick in zip(costs, one, strict=True)),))
    box.register("mate", tools.cxOnePoint)
    box.register("mutate", tools.mutUniformInt, low=0, up=SIZE - 1, indpb=0.2)
    box.register("select", tools.selTournament, tournsize=POPULATION // PARENTS)
    state = random.getstate()
    random.seed(seed)
    try:
        population = tools.initRepeat(list, box.individual, POPULATION)
        algorithms.eaSimple(population, box, cxpb=0.9, mutpb=1.0, ngen=generations, verbose=False)
    finally:
        random.setstate(state)


def pymoo(generations: int, seed: int) -> None:
    """Its genetic algorithm on integers, which evaluates a whole population at a time, as ours does."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.pntx import SinglePointCrossover
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    space, cost = problem()

    class Costs(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=GROUPS, n_obj=1, xl=0, xu=SIZE - 1, vtype=int)

        def _evaluate(self, picks: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = cost[space.indices(picks.astype(np.int64))].sum(1)

    algorithm = GA(
        pop_size=POPULATION,
        n_offsprings=POPULATION - PARENTS,
        sampling=IntegerRandomSampling(),
        crossover=SinglePointCrossover(prob=0.9),
        mutation=PM(prob=1.0, prob_var=0.2, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(Costs(), algorithm, ("n_gen", generations + 1), seed=seed, verbose=False)


@click.command()
@option("--generations", default=10, type=click.IntRange(1), help="Generations of a search.")
@option("--rounds", default=15, type=click.IntRange(1), help="Timed rounds.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
def main(generations: int, rounds: int, out: Path | None) -> None:
    """Time whole searches, per generation; medians over the rounds."""
    contenders: dict[str, Callable[[int, int], None]] = {"evosearch": evosearch, "DEAP eaSimple": deap}
    if find_spec("pymoo"):
        contenders["pymoo GA"] = pymoo
    else:
        say("pymoo is left out: pip install 'evocomp[benchmark]'")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    with progress("measure", "rounds") as report:
        for number in range(rounds + 1):  # one warm-up round
            for name, run in contenders.items():
                milliseconds = 1000 * _seconds(partial(run, generations, number)) / (generations + 1)
                if number:
                    taken[name].append(milliseconds)
            report(number + 1, rounds + 1)
    ours = median(taken["evosearch"])
    show_table(
        ["engine", "ms a generation", "lowest", "against evosearch"],
        [
            [name, f"{median(each):.3f}", f"{min(each):.3f}", f"{median(each) / ours:.1f}"]
            for name, each in taken.items()
        ],
        f"population {POPULATION}, {GROUPS} groups of {SIZE}",
    )
    if out:
        put_json(out, {"ms_per_generation": taken})


def _seconds(run: Callable[[], None]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


if __name__ == "__main__":
    main()
