"""Groupers: every one exact, each with the meaning it claims; DPC-KNN against TCFormer's own code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evosearch import GROUPERS, DpcKnn, GridGroups, KMeans, RandomGroups, Vocabulary, describe, dpc_knn, pick
from evosearch.groupers import grid, vocabulary

GOLDEN = Path(__file__).parents[2] / "bench" / "fidelity" / "golden" / "dpcknn.npz"
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(60, 8)).astype(np.float32)
ANCHORS = RNG.normal(size=(30, 8)).astype(np.float32)


def make(spec: str, groups: int):
    return pick(GROUPERS, spec, "grouper", groups=groups, anchors=ANCHORS, grid=(6, 10), seed=4)


@pytest.mark.parametrize("count", [1, 7, 16, 59, 60])
@pytest.mark.parametrize("name", GROUPERS)
def test_every_grouper_makes_exactly_the_groups_asked_for(name, count):
    grouper = make(name, count)
    space = grouper(VECTORS)
    assert len(space) == count and space.items == 60
    assert sum(grouper.partition(VECTORS).sizes) == 60
    assert pickle.loads(pickle.dumps(grouper))(VECTORS) == space


@pytest.mark.parametrize("name", GROUPERS)
def test_every_grouper_copes_with_identical_vectors(name):
    assert len(make(name, 9)(np.ones((60, 8)))) == 9


@pytest.mark.parametrize("name", GROUPERS)
def test_every_grouper_refuses_too_many_groups_and_bad_vectors(name):
    with pytest.raises(ValueError, match="61 groups"):
        make(name, 61)(VECTORS)
    with pytest.raises(ValueError, match="not finite"):
        make(name, 3)(np.where(VECTORS[5, 5] == VECTORS, np.nan, VECTORS))


def test_every_grouper_is_described_in_a_line():
    assert all(line.endswith(".") and len(line) < 100 for line in describe(GROUPERS).values())


def test_vocabulary_groups_by_nearest_anchor_in_direction_not_length():
    anchors = np.array([[1, 0], [0, 1], [-1, -1]], dtype=np.float32) * [[1], [100], [1]]
    vectors = np.array([[5, 1], [1, 5], [9, 2], [-1, -2], [0.1, 0.3]], dtype=np.float32)
    assert Vocabulary(3, anchors).partition(vectors).groups == ((0, 2), (1, 4), (3,))


def test_vocabulary_equals_the_plain_formula_in_blocks(monkeypatch):
    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    monkeypatch.setattr(vocabulary, "ANCHORS_PER_BLOCK", 7)
    expected = (unit(VECTORS) @ unit(ANCHORS).T).argmax(axis=1)
    assert Vocabulary(5, ANCHORS).labels(VECTORS).tolist() == expected.tolist()


def test_vocabulary_never_prefers_a_padding_anchor():
    anchors = np.concatenate([np.zeros((1, 8), np.float32), ANCHORS])
    assert (Vocabulary(5, anchors).labels(VECTORS) > 0).all()


@pytest.mark.parametrize("case", range(3))
def test_dpc_knn_equals_the_reference(case):
    with np.load(GOLDEN) as file:
        golden = {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"case{case}/")}
    for b, vectors in enumerate(golden["features"]):
        noise = golden["density_noise_uniform"][b]
        found = dpc_knn(vectors, golden["num_clusters"].item(), golden["k_neighbours"].item(), noise)
        assert np.allclose(found.density, golden["density"][b], atol=1e-5)
        assert np.allclose(found.distance, golden["distance_to_higher_density"][b], atol=1e-4)
        assert np.allclose(found.score, golden["score"][b], atol=1e-4)
        assert found.centres.tolist() == golden["centre_indices_in_score_order"][b].tolist()
        assert found.assignment.tolist() == golden["cluster_assignment"][b].tolist()


def test_dpc_knn_centres_lie_in_different_clusters():
    for vectors in (VECTORS, np.ones((60, 8))):
        clusters = DpcKnn(12).clusters(vectors)
        assert clusters.assignment[clusters.centres].tolist() == list(range(12))


@pytest.mark.parametrize("grouper", [KMeans(3), DpcKnn(3)])
def test_clusterings_find_planted_clusters(grouper):
    planted = np.repeat([0, 1, 2], 20)
    space = grouper((VECTORS[:, :2] * 0.1 + np.array([[0, 0], [9, 0], [0, 9]])[planted]).astype(np.float32))
    assert sorted(space.groups) == [tuple(range(start, start + 20)) for start in (0, 20, 40)]


def test_k_means_starts_at_most_a_thousand_times():
    with pytest.raises(ValueError, match="starts=1000000000000: choose between 1 and 1000"):
        KMeans(groups=2, starts=10**12)


def test_random_groups_are_even_and_follow_the_seed():
    assert set(RandomGroups(7, seed=1)(VECTORS).sizes) == {8, 9}
    assert (
        RandomGroups(7, seed=1)(VECTORS)
        == RandomGroups(7, seed=1)(VECTORS)
        != RandomGroups(7, seed=2)(VECTORS)
    )


def test_grid_makes_square_blocks():
    space = GridGroups(16, (12, 12))(np.zeros((144, 1)))
    assert min(space.groups) == (0, 1, 2, 12, 13, 14, 24, 25, 26) and set(space.sizes) == {9}


@pytest.mark.parametrize("shape", [(1, 9), (3, 3), (5, 7), (24, 24)])
def test_grid_blocks_are_rectangles_of_similar_size_for_every_count(shape):
    rows, columns = shape
    for count in range(1, rows * columns + 1):
        covered = np.zeros(shape, dtype=int)
        parts = grid.blocks(rows, columns, count)
        for part in parts:
            covered[part] += 1
        assert len(parts) == count and (covered == 1).all()


def test_grid_refuses_another_number_of_items():
    with pytest.raises(ValueError, match="6 x 10 does not hold 61"):
        GridGroups(3, (6, 10))(np.zeros((61, 1)))
