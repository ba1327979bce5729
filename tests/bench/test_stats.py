"""Paired intervals: exact on sums, tight when methods agree, and they hold zero when nothing differs."""

import numpy as np
import pytest

from bench.stats import interval, shares
from bench.tasks import GQA


def results(right):
    return {"gqa": np.stack([np.array(right, float), np.ones(len(right))], 1)}


def test_share_is_score_over_vanilla_score():
    got = shares([GQA()], results([1, 0, 0, 0]), results([1, 1, 0, 0]))
    assert got[0] == pytest.approx(50)


def test_pairing_removes_what_both_methods_share():
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    mine, theirs = easy.copy(), easy.copy()
    mine[np.flatnonzero(~easy)[:12]] = True  # twelve more right answers, all else equal
    gap = interval(
        shares([GQA()], results(mine), results(easy)), shares([GQA()], results(theirs), results(easy))
    )
    assert gap.low > 0 and gap.difference == pytest.approx(100 * 12 / easy.sum())
    assert gap.low < gap.difference < gap.high


def test_no_difference_gives_an_interval_around_zero():
    rng = np.random.default_rng(1)
    a, b = rng.random(300) < 0.5, rng.random(300) < 0.5
    whole = results(np.ones(300))
    gap = interval(shares([GQA()], results(a), whole), shares([GQA()], results(b), whole))
    assert gap.low < 0 < gap.high


def test_different_samples_are_refused():
    with pytest.raises(ValueError, match="4 units against 3"):
        shares([GQA()], results([1, 0, 1, 0]), results([1, 1, 1]))
