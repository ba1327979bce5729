"""The arithmetic behind the kinds of labels, held against its textbook form."""

from __future__ import annotations

import numpy as np
import pytest

from compress.labels.kinds import group_sample, inclusion, ridge_weights


def regression(noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    features = (rng.random((60, 12)) < 0.3).astype(float)
    return features, features @ rng.normal(size=12) + noise * rng.normal(size=60) + 7


def closed_form(features: np.ndarray, values: np.ndarray, penalty: float) -> np.ndarray:
    centred = features - features.mean(0)
    gram = centred.T @ centred + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, centred.T @ (values - values.mean()))


@pytest.mark.parametrize("penalty", [0.1, 3.0, 100.0])
def test_a_ridge_regression_is_its_closed_form(penalty: float) -> None:
    features, values = regression(0.5)
    assert ridge_weights(features, values, penalty) == pytest.approx(closed_form(features, values, penalty))


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_the_penalty_has_the_smallest_error_of_generalised_cross_validation(noise: float) -> None:
    """With the whole matrix that makes predictions of values, the intercept's part included."""
    features, values = regression(noise)
    count, centred = len(values), features - features.mean(0)

    def error(penalty: float) -> float:
        gram = centred.T @ centred + penalty * np.eye(12)
        smoother = centred @ np.linalg.solve(gram, centred.T) + 1 / count
        return float(((values - smoother @ values) ** 2).sum() / (count - np.trace(smoother)) ** 2)

    penalties = np.logspace(-1, 4, 26)
    best = min(penalties, key=error)
    assert penalties[0] < best < penalties[-1]
    assert ridge_weights(features, values) == pytest.approx(closed_form(features, values, best))


def test_inclusion_marks_what_each_candidate_keeps() -> None:
    assert inclusion(np.array([[0, 2], [1, 2]]), 4).tolist() == [[1, 0, 1, 0], [0, 1, 1, 0]]


def test_a_sample_of_groups_is_of_half_of_them() -> None:
    groups = [np.arange(20 * place, 20 * place + 20) for place in range(10)]
    rng = np.random.default_rng(0)
    drawn = [group_sample(groups, 200, 10, rng) for _ in range(300)]
    assert all(len(set(kept.tolist())) == 10 and (np.diff(kept) > 0).all() for kept in drawn)
    assert np.mean([len(set((kept // 20).tolist())) for kept in drawn]) == pytest.approx(5, abs=0.3)


def test_what_groups_do_not_fill_is_filled_at_random() -> None:
    rng = np.random.default_rng(0)
    drawn = [group_sample([np.array([0]), np.array([1])], 10, 3, rng) for _ in range(100)]
    assert all(len(kept) == 3 for kept in drawn)
    assert set(np.concatenate(drawn).tolist()) == set(range(10))
