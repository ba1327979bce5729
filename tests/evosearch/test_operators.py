"""Variation: DEAP's signatures, the paper's meaning, the edges of groups."""

from __future__ import annotations

import pickle
import random as global_random
from copy import deepcopy
from random import Random

import pytest
from deap import tools

from evosearch import CROSSOVERS, MUTATIONS, Individual, half_split, shift
from evosearch.operators import bind, one_point, reset

SIZES = (1, 2, 3, 9, 9, 1, 4)


def test_half_split_joins_first_half_and_second_half():
    children = half_split(Individual([0] * 5), Individual([1] * 5))
    assert [list(child) for child in children] == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("cross", CROSSOVERS.values(), ids=CROSSOVERS)
def test_crossovers_exchange_in_place_and_lose_nothing(cross, length):
    for seed in range(20):
        first, second = Individual([0] * length), Individual([1] * length)
        assert cross(first, second, rng=Random(seed)) == (first, second)
        assert all(sorted(genes) == [0, 1] for genes in zip(first, second, strict=True))


def test_one_point_never_exchanges_whole_individuals():
    for seed in range(20):
        children = one_point(Individual([0, 0]), Individual([1, 1]), Random(seed))
        assert [list(child) for child in children] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_mutations_stay_inside_groups_and_leave_groups_of_one(mutate):
    rng = Random(0)
    for _ in range(200):
        before = [int(rng.random() * size) for size in SIZES]
        (after,) = mutate(Individual(before), sizes=SIZES, rng=rng, probability=1.0)
        assert all((a != b) == (size > 1) for a, b, size in zip(after, before, SIZES, strict=True))
        assert all(0 <= a < size for a, size in zip(after, SIZES, strict=True))


def test_shift_moves_one_place_to_either_side():
    ends = {shift(Individual([4]), (9,), Random(seed), 1.0)[0][0] for seed in range(20)}
    assert ends == {3, 5}


@pytest.mark.parametrize("edge, reached", [("bounce", {1}), ("stay", {0, 1}), ("wrap", {1, 3})])
def test_edge_rule_of_shift(edge, reached):
    assert {shift(Individual([0]), (4,), Random(seed), 1.0, edge)[0][0] for seed in range(20)} == reached


def test_probability_is_per_group():
    rng = Random(3)
    moved = sum(
        sum(shift(Individual([1] * 64), (3,) * 64, rng, 0.2)[0][g] != 1 for g in range(64))
        for _ in range(200)
    )
    assert abs(moved / (64 * 200) - 0.2) < 0.02
    assert shift(Individual([1] * 64), (3,) * 64, rng, 0.0)[0] == [1] * 64


def test_reset_reaches_every_other_pick_equally():
    rng = Random(0)
    ends = [reset(Individual([2]), (5,), rng, 1.0)[0][0] for _ in range(4000)]
    assert all(abs(ends.count(pick) / 4000 - 0.25) < 0.03 for pick in (0, 1, 3, 4)) and 2 not in ends


def test_bind_fills_in_only_what_is_asked_for():
    rng = Random(0)
    assert bind(shift, SIZES, rng).keywords == {"sizes": SIZES, "rng": rng}
    assert bind(half_split, SIZES, rng).keywords == {"rng": rng}


def test_deap_operators_draw_from_the_given_generator_and_leave_the_global_one():
    state = global_random.getstate()

    def cross(seed):
        pair = bind(tools.cxUniform, SIZES, Random(seed))(
            Individual([0] * 30), Individual([1] * 30), indpb=0.5
        )
        return list(pair[0])

    assert cross(1) == cross(1) != cross(2)
    lent = bind(tools.cxUniform, SIZES, Random(1))
    again = [list(lent(Individual([0] * 30), Individual([1] * 30), indpb=0.5)[0]) for _ in range(2)]
    assert again[0] == cross(1) != again[1]
    assert global_random.getstate() == state


def test_individuals_pickle_copy_and_compare_by_loss():
    good, bad = Individual([1, 2]), Individual([3, 4])
    good.fitness.values, bad.fitness.values = (0.5,), (2.0,)
    assert good.fitness > bad.fitness and tools.selBest([bad, good], 1) == [good]
    for twin in (good.clone(), deepcopy(good), pickle.loads(pickle.dumps(good))):
        twin[0] = 9
        twin.fitness.values = (7.0,)
        assert good == [1, 2] and good.loss == 0.5 and type(twin) is Individual
