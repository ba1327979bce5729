"""Strategies: the paper's defaults, one protocol, and each clearly better than chance at the paper's
budget."""

from __future__ import annotations

import copy
import hashlib
import pickle
from random import Random

import numpy as np
import pytest
from deap import tools

from evosearch import (
    STRATEGIES,
    Annealing,
    Evolution,
    Grouping,
    HillClimb,
    Individual,
    RandomSearch,
    Uniform,
    search,
)

# sha256 of all candidates in order of evaluation: 150 on the planted problem with 12 groups of 5, seed 3
PINNED = {
    "evolution": "2d9ce8aa04efe536",
    "random": "def221e70621f712",
    "hill-climb": "0fc53bd8117f17f9",
    "annealing": "75a03a40a12bd301",
    "eda": "fe0e7219b8f85d36",
    "uniform": "35c32e193b528af8",
}


def test_paper_defaults():
    paper = Evolution()
    assert (paper.population, paper.parents, paper.iterations) == (48, 12, 10)
    assert (paper.crossover, paper.mutation, paper.elitist) == (0.9, 0.2, True)
    assert (paper.mate, paper.mutate, paper.edge) == ("half-split", "shift", "bounce")


def test_paper_search_is_48_and_ten_times_36_candidates(planted):
    problem = planted()
    result = search(problem.space, problem, Evolution(), budget=10_000)
    sizes = np.diff([0, *result.logbook.select("evaluations")])
    assert sizes[0] == 48 and len(sizes) == 11 and all(sizes[1:] <= 36)
    assert (
        result.evaluations <= 408
        and result.iterations == 10
        and result.stopped == "the strategy has finished"
    )


def test_elitism_never_loses_the_best_and_its_opposite_replaces_everyone(planted):
    problem = planted()
    for elitist in (True, False):
        strategy = Evolution(elitist=elitist)
        strategy.begin(problem.space, Random(0))
        best = []
        for _ in range(6):
            asked = strategy.ask()
            losses = problem(strategy.decode(asked)).tolist()
            for one, loss in zip(asked, losses, strict=True):
                one.fitness.values = (loss,)
            strategy.tell(asked, losses)
            survivors = strategy._survivors
            best.append(min(one.loss for one in survivors))
            assert len(survivors) == 12 and (
                elitist or all(any(one is s for s in asked) for one in survivors)
            )
        assert len(asked) == (36 if elitist else 48)
        assert (best == sorted(best, reverse=True)) or not elitist


def test_children_come_from_parents(planted):
    space = planted(groups=8, size=5).space
    strategy = Evolution(population=6, parents=2, crossover=1.0, mutation=0.0)
    strategy.begin(space, Random(0))
    opening = strategy.ask()
    for rank, one in enumerate(opening):
        one.fitness.values = (float(rank),)
    strategy.tell(opening, [float(rank) for rank in range(6)])
    a, b = opening[0], opening[1]
    assert sorted(map(list, strategy.ask())) == sorted([a[:4] + b[4:], b[:4] + a[4:]] * 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_same_search_on_every_machine(name, planted):
    problem = planted(groups=12, size=5)
    result = search(problem.space, problem, STRATEGIES[name](), seed=3, budget=150)
    digest = hashlib.sha256(result.archive.indices.astype("<i8").tobytes()).hexdigest()[:16]
    assert len(result.archive) == 150 and digest == PINNED[name]


@pytest.mark.parametrize("name", STRATEGIES)
def test_batches_are_candidates_and_strategies_pickle_mid_search(name, planted):
    problem = planted(groups=12, size=5)
    strategy = STRATEGIES[name]()
    strategy.begin(problem.space, Random(0))
    for _ in range(3):
        asked = strategy.ask()
        indices = strategy.decode(asked)
        assert indices.shape == (len(asked), 12) and (np.diff(indices, axis=1) > 0).all()
        assert name == "uniform" or problem.space.picks(indices).tolist() == [list(one) for one in asked]
        losses = problem(indices).tolist()
        for one, loss in zip(asked, losses, strict=True):
            one.fitness.values = (loss,)
        strategy.tell(asked, losses)
        twin = pickle.loads(pickle.dumps(strategy))
    assert [list(one) for one in twin.ask()] == [list(one) for one in strategy.ask()]


def regret(planted, strategy, seeds=range(5), **options) -> float:
    """Mean loss above the optimum per group; random picks have about 400, cost being 0 to 999 and sizes 9."""
    problems = [planted(seed=seed) for seed in seeds]
    found = [
        search(p.space, p, strategy, seed=seed, **options).loss - p.optimum for seed, p in enumerate(problems)
    ]
    return float(np.mean(found)) / 64


def test_every_strategy_that_learns_clearly_beats_random_search(planted):
    chance = regret(planted, RandomSearch())
    assert 250 < chance < 350
    assert regret(planted, Evolution()) < 0.85 * chance
    assert regret(planted, STRATEGIES["eda"]()) < 0.5 * chance
    assert regret(planted, Annealing()) < 0.35 * chance
    assert regret(planted, HillClimb()) < 0.2 * chance


def test_hill_climb_ends_in_a_local_optimum_then_starts_again(planted):
    problem = planted(groups=6, size=4)
    result = search(problem.space, problem, HillClimb(batch=8), budget=400)
    assert result.loss == problem.optimum
    assert result.evaluations > 6 * 3 * 4


def test_hill_climb_takes_all_that_helped_and_returns_if_it_did_not_add_up(planted):
    strategy = HillClimb(batch=5)
    strategy.begin(planted(groups=12, size=5).space, Random(0))
    start = strategy.ask()[0]
    strategy.tell([start], [10.0])
    asked = strategy.ask()
    changed = [{group for group in range(12) if one[group] != start[group]} for one in asked]
    assert asked[0] == start and all(len(groups) <= 1 for groups in changed)
    strategy.tell(asked, [10.0, 9.0, 8.0, 11.0, 9.0])
    joint = strategy.ask()
    assert {g for g in range(12) if joint[0][g] != start[g]} == changed[1] | changed[2] | changed[4]
    strategy.tell(joint, [50.0] * 5)
    assert strategy.ask()[0] == asked[2]


def test_hill_climb_takes_the_better_of_two_changes_in_one_group(planted):
    strategy = HillClimb(batch=9)
    strategy.begin(planted(groups=2, size=5).space, Random(0))
    start = strategy.ask()[0]
    strategy.tell([start], [10.0])
    _, *asked = strategy.ask()
    losses = [9.0 - abs(place - 3.1) if one != start else 10.0 for place, one in enumerate(asked)]
    ranked = [one for _, one in sorted(zip(losses, asked, strict=True), key=lambda pair: pair[0])]
    best = [next(one[group] for one in ranked if one[group] != start[group]) for group in range(2)]
    strategy.tell([start, *asked], [10.0, *losses])
    assert list(strategy.ask()[0]) == best


class Draws(Random):
    """A generator whose numbers are all 0.3."""

    def random(self) -> float:
        return 0.3


@pytest.mark.parametrize(("worse", "accepted"), [(5.9, True), (6.1, False)])
def test_annealing_takes_joint_changes_at_the_temperature_times_their_number(planted, worse, accepted):
    """Four changes of -1, -2, -1 and -1 make a temperature of 1.25: exp(-6.02 / (4 * 1.25)) is 0.3."""
    strategy = Annealing(batch=5, heat=1.0, cooling=1.0)
    strategy.begin(planted(groups=12, size=5).space, Draws(0))
    start = strategy.ask()[0]
    strategy.tell([start], [10.0])
    strategy.tell(strategy.ask(), [10.0, 9.0, 8.0, 9.0, 9.0])
    joint = strategy.ask()
    assert sum(a != b for a, b in zip(joint[0], start, strict=True)) == 4
    strategy.tell(joint, [10.0 + worse, *[999.0] * 4])
    assert strategy.ask()[0] == (joint[0] if accepted else start)


@pytest.mark.parametrize("strategy", [HillClimb(), Annealing()])
def test_a_space_without_choice_is_finished_at_once(strategy):
    result = search(Grouping(((0,), (1,)), 2), lambda indices: np.zeros(len(indices)), strategy)
    assert result.evaluations == 1 and result.stopped == "the strategy has finished"


def test_uniform_ignores_groups_and_covers_all_items():
    space = Grouping(((0, 1), (2, 3)), items=6)  # items 4 and 5 are in no group
    result = search(space, lambda indices: np.zeros(len(indices)), Uniform(), budget=15)
    assert result.evaluations == 15  # every pair of 6 items
    assert set(result.archive.indices.ravel().tolist()) == set(range(6))


def test_any_deap_operator_can_be_registered(planted):
    problem = planted(groups=12, size=5)
    strategy = Evolution()
    strategy.toolbox.register("mate", tools.cxTwoPoint)
    strategy.toolbox.register("mutate", tools.mutUniformInt, low=0, up=[4] * 12, indpb=0.1)
    strategy.toolbox.register("select", tools.selTournament, tournsize=3)
    first, second = (search(problem.space, problem, strategy, seed=5, budget=200) for _ in range(2))
    assert first.archive.indices.tolist() == second.archive.indices.tolist()
    assert first.loss < search(problem.space, problem, RandomSearch(), seed=5, budget=200).loss
    assert strategy.settings()["mate"] == "cxTwoPoint()"


def test_operator_that_leaves_its_group_is_reported(planted):
    problem = planted(groups=12, size=5)
    strategy = Evolution()
    strategy.toolbox.register("mutate", tools.mutUniformInt, low=5, up=9, indpb=1.0)
    with pytest.raises(ValueError, match="operators must keep every pick inside its group"):
        search(problem.space, problem, strategy)


def test_operator_that_changes_the_number_of_genes_is_reported(planted):
    problem, evolution = planted(groups=12, size=5), Evolution(mutation=0)
    evolution.toolbox.register("mate", tools.cxMessyOnePoint)  # what one child loses the other gains
    with pytest.raises(ValueError, match=r"mate=cxMessyOnePoint\(\) returned .*each with 12 genes"):
        search(problem.space, problem, evolution)
    assert len(problem.seen) == 48  # none of the children was misread


def drops_a_gene(ind):
    del ind[0]
    return (ind,)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("mutate", drops_a_gene),
        ("mutate", lambda ind: None),
        ("mutate", lambda ind: ind),  # the individual where DEAP's operators return a tuple
        ("mutate", lambda ind: (list(ind),)),
        ("mate", lambda one, other: None),
        ("mate", lambda one, other: (one,)),
        ("select", lambda pool, k: None),
        ("select", lambda pool, k: []),
        ("clone", lambda ind: None),
        ("clone", lambda ind: list(ind)),
    ],
)
def test_operator_that_returns_something_else_is_named(name, operator, planted):
    problem, evolution = planted(groups=12, size=5), Evolution()
    evolution.toolbox.register(name, operator)
    with pytest.raises(ValueError, match=rf"^{name}=.* returned .*must return a (tuple|list|copy)"):
        search(problem.space, problem, evolution)


@pytest.mark.parametrize("name", ["clone", "select", "mate", "mutate"])
def test_an_operator_that_is_not_registered_is_named(name, planted):
    problem, evolution = planted(groups=12, size=5), Evolution()
    evolution.toolbox.unregister(name)
    with pytest.raises(ValueError, match=f"the toolbox has no operator '{name}': register one"):
        search(problem.space, problem, evolution)


@pytest.mark.parametrize(
    ("strategy", "option"),
    [(name, "population" if name == "evolution" else "batch") for name in STRATEGIES],
)
def test_no_strategy_holds_more_than_a_million_at_once(strategy, option):
    with pytest.raises(ValueError, match=f"{option}=1000000000000: choose 1000000 or fewer"):
        STRATEGIES[strategy](**{option: 10**12})


def bounded(operator):  # as DEAP's documentation writes decorators, without functools.wraps
    def wrapper(*args, **kargs):
        offspring = operator(*args, **kargs)
        for child in offspring:
            child[0] = 0
        return offspring

    return wrapper


@pytest.mark.parametrize("name", ["mate", "mutate", "select"])
def test_operators_may_be_decorated_as_in_deap(name, planted):
    problem, evolution = planted(groups=12, size=5), Evolution(crossover=1, mutation=0.2 * (name == "mutate"))
    evolution.toolbox.decorate(name, bounded, lambda operator: bounded(operator))
    result = search(problem.space, problem, evolution)
    children = problem.space.picks(result.archive.indices[48:])
    assert len(children) and (children[:, 0] == 0).all()


def test_history_of_deap_follows_the_children(planted):
    problem, evolution, history = planted(groups=12, size=5), Evolution(), tools.History()
    evolution.toolbox.decorate("mate", history.decorator)
    evolution.toolbox.decorate("mutate", history.decorator)
    search(problem.space, problem, evolution)
    assert any(history.genealogy_tree.values())  # parents are known by an attribute of the individuals


@pytest.mark.parametrize("clone", [Individual.clone, copy.deepcopy])
def test_self_adaptive_mutation_keeps_its_rate(clone, planted):
    seen = []

    def mutate(ind):
        ind.rate = [getattr(ind, "rate", [1.0])[0] * 0.5]
        seen.append(ind.rate[0])
        return (ind,)

    problem, evolution = planted(groups=12, size=5), Evolution()
    evolution.toolbox.register("clone", clone)
    evolution.toolbox.register("mutate", mutate)
    search(problem.space, problem, evolution)
    assert min(seen) < 0.5  # children of children halve it again
    original = Individual([1, 2])
    original.rate = [1.0]
    original.clone().rate[0] = 0.0
    assert original.rate == [1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"population": 12},
        {"parents": 1},
        {"crossover": 1.1},
        {"mutation": -0.1},
        {"iterations": -1},
        {"edge": "x"},
        {"mate": "x"},
        {"mutate": "x"},
    ],
)
def test_evolution_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Evolution(**options)


def test_other_strategies_refuse_impossible_options():
    for name in ("random", "hill-climb", "annealing", "eda", "uniform"):
        with pytest.raises(ValueError, match="batch=0"):
            STRATEGIES[name](batch=0)
    with pytest.raises(ValueError, match="cooling"):
        Annealing(cooling=0)


def test_individuals_of_evolution_are_deap_individuals(planted):
    problem = planted(groups=4, size=3)
    best = search(problem.space, problem, Evolution(), budget=60).best
    assert type(best) is Individual and best.fitness.valid and best.fitness.weights == (-1.0,)


def test_genes_of_any_size_are_decoded(planted):
    space = Grouping((tuple(range(300)), tuple(range(300, 310))), 310)
    decoded = RandomSearch()
    decoded.begin(space, Random(0))
    assert decoded.decode([Individual([299, 3]), Individual([0, 0])]).tolist() == [[299, 303], [0, 300]]
    with pytest.raises(ValueError, match="picks must be whole numbers"):
        decoded.decode([Individual([1.5, 0])])
