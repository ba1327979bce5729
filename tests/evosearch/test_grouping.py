"""The search space: exact group counts and translation between picks, indices and masks."""

from __future__ import annotations

import pickle
from random import Random

import numpy as np
import pytest

from evosearch import Grouping

SPACE = Grouping(((0, 3, 6), (1, 2), (5,)), items=8)


def test_from_labels_keeps_order_inside_groups():
    assert Grouping.from_labels([7, 2, 7, 2, 9]).groups == ((0, 2), (1, 3), (4,))


def test_largest_prefers_size_then_smallest_item():
    space = Grouping(((9,), (7, 8), (5, 6), (0, 1, 2)), items=10)
    assert space.largest(2).groups == ((0, 1, 2), (5, 6))


def test_largest_halves_the_largest_by_order_until_there_are_enough():
    space = Grouping(((0, 1, 2, 3, 4), (5, 6)), items=7)
    assert space.largest(3).groups == ((0, 1, 2), (3, 4), (5, 6))
    assert space.largest(4).groups == ((0, 1), (3, 4), (5, 6), (2,))
    assert space.largest(7).sizes == (1,) * 7


@pytest.mark.parametrize("count", range(1, 41))
def test_largest_is_exact_and_disjoint(count):
    labels = np.random.default_rng(count).integers(0, 6, 40)
    space = Grouping.from_labels(labels).largest(count)
    members = [item for group in space.groups for item in group]
    assert len(space) == count and len(members) == len(set(members)) and space.items == 40


@pytest.mark.parametrize("count", [0, 7])
def test_largest_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=f"{count} groups of 6 items"):
        SPACE.largest(count)


def test_indices_are_sorted_and_picks_undo_them():
    picks = np.array([[2, 0, 0], [0, 1, 0]])
    indices = SPACE.indices(picks)
    assert indices.tolist() == [[1, 5, 6], [0, 2, 5]]
    assert SPACE.picks(indices[:, ::-1]).tolist() == picks.tolist()


def test_mask_has_one_item_of_each_group():
    mask = SPACE.mask([[1, 5, 6]])
    assert mask.shape == (1, 8) and np.flatnonzero(mask[0]).tolist() == [1, 5, 6]


def test_pick_outside_its_group_is_named():
    with pytest.raises(ValueError, match="candidate 1 picks item 2 of group 1, which has items 0 to 1"):
        SPACE.indices([[0, 0, 0], [0, 2, 0]])
    with pytest.raises(ValueError, match="whole numbers"):
        SPACE.indices([[0.5, 0, 0]])


@pytest.mark.parametrize("rows", [[[0, 3, 5]], [[0, 1, 4]], [[0, 1]], [[0, 1, 8]]])
def test_picks_refuse_what_is_no_candidate(rows):
    with pytest.raises(ValueError):
        SPACE.picks(rows)


@pytest.mark.parametrize("groups", [((0, 1), (1, 2)), ((0,), ()), (), ((0, 8),), ((-1, 0),)])
def test_grouping_refuses_what_is_no_partition(groups):
    with pytest.raises(ValueError):
        Grouping(groups, items=8)


def test_random_is_uniform_and_follows_the_generator():
    picks = SPACE.random(Random(1), 6000)
    assert picks.tolist() == SPACE.random(Random(1), 6000).tolist()
    assert np.allclose(np.bincount(picks[:, 0]) / 6000, 1 / 3, atol=0.03)
    assert (picks[:, 2] == 0).all()


def test_grouping_is_a_value():
    SPACE.indices([[0, 0, 0]])  # fills the cached tables
    twin = pickle.loads(pickle.dumps(SPACE))
    assert twin == SPACE and hash(twin) == hash(SPACE) and twin.candidates == 6


def test_random_picks_are_those_of_single_draws():
    space = Grouping(((0, 1, 2, 3, 4), (5,), (6, 7)), 8)
    one, other = Random(3), Random(3)
    drawn = [[int(one.random() * size) for size in space.sizes] for _ in range(20)]
    assert space.random(other, 20).tolist() == drawn and other.getstate() == one.getstate()
