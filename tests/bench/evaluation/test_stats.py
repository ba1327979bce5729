"""Paired statistics: exact on sums, tight when methods agree, and silent when nothing differs."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import chi2, norm, t, ttest_ind

from bench.evaluation import stats
from bench.evaluation.stats import (
    Interval,
    Pairs,
    contrast,
    holm,
    mcnemar,
    mean_interval,
    resample,
    share,
    shares,
)
from bench.tasks import GQA, MMBench, MMBenchCN, Pope


def results(right):
    return {"gqa": np.stack([np.array(right, float), np.ones(len(right))], 1)}


def apart(units):
    return [str(place) for place in range(units)]


def drawn(**runs):
    images = {"gqa": apart(len(runs["whole"]))}
    return shares([GQA()], {name: results(right) for name, right in runs.items()}, "whole", images)


def interval(ours, theirs):
    return contrast([ours], [theirs])[0]


def chance(ours, theirs):
    return contrast([ours], [theirs])[1]


def test_share_is_score_over_vanilla_score():
    got = drawn(mine=[1, 0, 0, 0], whole=[1, 1, 0, 0])
    assert got["mine"][0] == pytest.approx(50)
    assert (got["whole"] == 100).all()


def test_nothing_of_nothing_is_all_of_it_and_something_of_nothing_is_unknown():
    assert share(0, 0) == 100 and np.isnan(share(3, 0)) and share(30, 40) == 75


def test_the_paper_s_averages_are_means_of_shares():
    """EvoComp Table 1, LLaVA-1.5-7B: scores and the printed average, to the printed digit."""
    vanilla = [61.9, 64.7, 58.1, 85.9, 78.5, 50.0]
    for printed, scores in {
        "96.9": [57.9, 64.2, 57.5, 77.8, 76.0, 51.2],  # FastV, 192 tokens
        "90.7": [54.3, 59.6, 52.9, 71.3, 70.6, 50.1],  # PruMerge, 192
        "99.3": [60.8, 64.2, 57.2, 84.1, 77.4, 51.7],  # EvoComp@2, 192
        "94.4": [55.9, 63.7, 56.6, 72.0, 73.3, 51.4],  # FastV, 128
    }.items():
        assert f"{np.mean(share(scores, vanilla)):.1f}" == printed


def test_pairing_removes_what_both_methods_share():
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    mine = easy.copy()
    mine[np.flatnonzero(~easy)[:12]] = True  # twelve more right answers, all else equal
    got = drawn(mine=mine, whole=easy)
    gap = interval(got["mine"], got["whole"])
    assert gap.low > 0 and gap.clear and gap.difference == pytest.approx(100 * 12 / easy.sum())
    assert gap.low < gap.difference < gap.high


def test_no_difference_gives_an_interval_around_zero():
    rng = np.random.default_rng(1)
    got = drawn(a=rng.random(300) < 0.5, b=rng.random(300) < 0.5, whole=np.ones(300))
    gap = interval(got["a"], got["b"])
    assert gap.low < 0 < gap.high and not gap.clear


def test_the_interval_is_the_binomial_s_for_right_and_wrong_answers():
    """90 of 300 against none: the standard error of a share is sqrt(.3 * .7 / 300)."""
    got = drawn(mine=[1] * 90 + [0] * 210, none=np.zeros(300), whole=np.ones(300))
    gap = interval(got["mine"], got["none"])
    half = 196 * np.sqrt(0.3 * 0.7 / 300)
    assert gap.low == pytest.approx(30 - half, abs=0.6) and gap.high == pytest.approx(30 + half, abs=0.6)


def test_the_p_value_of_an_average_is_that_of_its_standard_error():
    """Of 200 questions 40 are won and 20 lost: z is 20 over the root of 60 - 20 * 20 / 200."""
    ours, theirs = [1] * 40 + [0] * 20 + [1] * 140, [0] * 40 + [1] * 20 + [1] * 140
    got = drawn(ours=ours, theirs=theirs, whole=np.ones(200))
    z = 20 / np.sqrt(60 - 20**2 / 200)
    assert norm.isf(chance(got["ours"], got["theirs"]) / 2) == pytest.approx(z, rel=0.05)
    assert chance(got["theirs"], got["ours"]) == chance(got["ours"], got["theirs"])
    assert chance(got["ours"], got["ours"]) == 1
    one = drawn(mine=[0], whole=[1])
    assert chance(one["mine"], one["whole"]) == 1  # a single question is no evidence


def test_other_runs_of_a_call_do_not_change_an_interval():
    rng = np.random.default_rng(2)
    a, b, c = (rng.random(50) < 0.5 for _ in range(3))
    alone, together = drawn(a=a, whole=b), drawn(c=c, a=a, whole=b)
    assert (alone["a"] == together["a"]).all()


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    sums = np.random.default_rng(3).random((30, 2))
    given = {"gqa": [sums]}, {"gqa": apart(30)}
    whole = resample(*given, draws=40)["gqa"]
    monkeypatch.setattr(stats, "CHUNK", 90)
    assert np.allclose(resample(*given, draws=40)["gqa"], whole, atol=1e-12)
    assert whole.shape == (1, 41, 2) and np.allclose(whole[0, 0], sums.sum(0))


def test_every_draw_has_as_many_images_as_there_are():
    """Sums that are counts stay the count; with one image fewer in each draw they would not."""
    counted = resample({"gqa": [np.ones((30, 2))]}, {"gqa": apart(30)}, draws=40)["gqa"]
    assert (counted == 30).all()


def test_scores_that_are_no_means_are_recomputed_from_sums():
    """F1 of the resampled sums, not the mean of resampled F1."""
    task = Pope()
    sums = np.zeros((40, 9))
    sums[:20, 0], sums[20:, 2] = 1, 1  # 20 true positives, 20 misses: F1 = 2/3
    runs = {"mine": {"pope": sums}, "whole": {"pope": np.eye(9)[[0] * 40]}}
    got = shares([task], runs, "whole", {"pope": apart(40)})
    assert got["mine"][0] == pytest.approx(100 * 2 / 3)


def test_different_samples_are_refused():
    with pytest.raises(ValueError, match="gqa: 3 and 4 units; compare runs over the same samples"):
        drawn(mine=[1, 0, 1, 0], whole=[1, 1, 1])
    with pytest.raises(ValueError, match="gqa: 3 and 4 units"):
        shares([GQA()], {"whole": results([1, 1, 1])}, "whole", {"gqa": apart(4)})


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 5, 2 / 32), (1, 7, 2 * (1 + 8) / 256), (3, 3, 1.0), (0, 0, 1.0), (10, 0, 2 / 1024)],
)
def test_mcnemar_is_the_exact_binomial_of_discordant_pairs(better, worse, p):
    ours = [1] * better + [0] * worse + [1, 0] * 20
    theirs = [0] * better + [1] * worse + [1, 0] * 20
    got = mcnemar(ours, theirs, apart(len(ours)))
    assert (got.better, got.worse) == (better, worse)
    assert got.p == got.adjusted == pytest.approx(p)


def test_mcnemar_agrees_with_its_textbook_form_on_many_pairs():
    got = mcnemar([1] * 300 + [0] * 240, [0] * 300 + [1] * 240, apart(540))
    corrected = (abs(300 - 240) - 1) ** 2 / 540
    assert got.p == pytest.approx(chi2.sf(corrected, 1), rel=0.02)


def test_soft_scores_are_discordant_however_little_they_differ():
    got = mcnemar([0.3, 0.9, 1.0, 0.6, 0.0], [0.6, 0.9, 0.9, 0.3, 0.0], apart(5))
    assert (got.better, got.worse, got.p) == (2, 1, 1.0)


def test_holm_s_steps_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1] and holm([]) == [] and holm([0.2]) == [0.2]


def test_holm_bounds_false_findings_over_a_table():
    """Forty true null hypotheses: without correction most tables claim something, with it one in twenty."""
    rng = np.random.default_rng(4)
    tables = rng.random((500, 40))
    claims = np.mean([min(holm(table)) < 0.05 for table in tables])
    assert claims < 0.08 < np.mean(tables.min(1) < 0.05)


def test_significance_is_of_the_corrected_value():
    assert Pairs(9, 0, 0.004, 0.04).significant and not Pairs(9, 0, 0.004, 0.2).significant


def test_an_interval_turns_round():
    assert -Interval(1, -2, 5) == Interval(-1, -5, 2) and str(Interval(1, -2, 5)) == "+1.0 [-2.0, +5.0]"


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    gaps = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found, error = mean_interval(gaps), gaps.std() / 20
    assert found.difference == gaps.mean()
    assert (found.low, found.high) == pytest.approx(gaps.mean() + error * norm.ppf([0.025, 0.975]), abs=0.01)
    assert mean_interval(np.ones(3)) == Interval(1.0, 1.0, 1.0)


# Images ----------------------------------------------------------------------------------------------------


def test_the_test_by_image_is_that_of_all_ways_to_exchange_the_methods():
    """Enumerated: five images with net wins of 2, 1, -1, 3 and 0."""
    wins = {"a": [1, 1], "b": [1], "c": [-1], "d": [1, 1, 1], "e": [1, -1]}
    images = [image for image, listed in wins.items() for _ in listed]
    gaps = np.array([gap for listed in wins.values() for gap in listed])
    sums = [sum(s * sum(v) for s, v in zip(signs, wins.values(), strict=True))
            for signs in product((1, -1), repeat=5)]  # fmt: skip
    got = mcnemar(gaps > 0, gaps < 0, images)
    assert (got.better, got.worse) == (7, 2)
    assert got.p == pytest.approx(np.mean([abs(one) >= 5 for one in sums]))


def test_the_same_answers_about_the_same_image_are_no_further_evidence():
    ours, theirs = [1] * 8 + [0] * 2, [0] * 8 + [1] * 2
    alone = mcnemar(ours, theirs, apart(10))
    twice = mcnemar(ours * 2, theirs * 2, apart(10) * 2)
    assert twice.p == pytest.approx(alone.p) and (twice.better, twice.worse) == (16, 4)
    assert mcnemar(ours * 2, theirs * 2, apart(20)).p < alone.p


def doubled(rng, images, tasks):
    """Two methods of equal skill on `tasks` tasks that ask the same about the same images."""
    right = {name: rng.random(images) < 0.7 for name in ("ours", "theirs")}
    told = {name: {task: results(r ^ (rng.random(images) < 0.02))["gqa"] for task in tasks}
            for name, r in right.items()}  # fmt: skip
    return {**told, "whole": {task: np.ones((images, 2)) for task in tasks}}


def test_intervals_cover_the_truth_where_tasks_share_their_images():
    """The truth is no difference. Of a thousand made tables 95 % hold it, with questions apart 83 %."""
    tasks, rng = [MMBench(), MMBenchCN()], np.random.default_rng(5)
    held, naive = [], []
    for _ in range(300):
        runs = doubled(rng, 80, [task.name for task in tasks])
        shared = {task.name: apart(80) for task in tasks}
        split = {task.name: [f"{task.name} {one}" for one in apart(80)] for task in tasks}
        for images, found in ((shared, held), (split, naive)):
            got = shares(tasks, runs, "whole", images, draws=300)
            found.append(not interval(got["ours"], got["theirs"]).clear)
    assert np.mean(held) > 0.92 and np.mean(naive) < 0.9


def test_tasks_that_share_no_image_do_not_change_each_other():
    rng = np.random.default_rng(6)
    runs = {"mine": {"gqa": rng.random((30, 2)), "pope": rng.random((20, 9))}}
    sums = {task: [runs["mine"][task]] for task in ("gqa", "pope")}
    images = {"gqa": apart(30), "pope": [f"pope {place // 2}" for place in range(20)]}
    both = resample(sums, images, draws=50)
    alone = resample({"gqa": sums["gqa"]}, {"gqa": images["gqa"]}, draws=50)
    assert np.allclose(both["gqa"], alone["gqa"]) and np.allclose(both["pope"][0, 0], sums["pope"][0].sum(0))


def test_a_task_that_shares_some_of_its_images_is_summed_over_all_of_them():
    rng = np.random.default_rng(9)
    sums = {"gqa": [rng.random((30, 2))], "pope": [rng.random((20, 9))]}
    images = {"gqa": apart(30), "pope": [str(place) for place in range(20, 40)]}  # ten in both
    found = resample(sums, images, draws=50)
    for task in sums:
        assert np.allclose(found[task][0, 0], sums[task][0].sum(0))
    counted = resample({"gqa": [np.ones((30, 2))], "pope": [np.ones((20, 9))]}, images, draws=50)
    assert (counted["gqa"] == 30).all() and (counted["pope"] == 20).all()


def test_the_interval_of_a_mean_takes_pairs_of_one_image_together():
    gaps = np.repeat(np.random.default_rng(1).normal(0, 1, 100), 4)
    alone, together = mean_interval(gaps), mean_interval(gaps, [str(i // 4) for i in range(400)])
    assert alone.difference == together.difference
    assert together.high - together.low == pytest.approx(2 * (alone.high - alone.low), rel=0.1)


# Seeds -----------------------------------------------------------------------------------------------------


def test_intervals_cover_the_truth_over_seeds_and_images():
    """Two rows of three seeds: networks differ by some points, rows by nothing.

    Of a thousand made tables 95 % hold the truth; where the seeds are left out of the interval, 53 %.
    """
    rng, held, fixed = np.random.default_rng(7), [], []
    for _ in range(300):
        hard = rng.normal(0, 1, 150)
        runs = {"whole": results(np.ones(150))}
        for row in "ab":
            for seed in range(3):
                runs[row, seed] = results(hard + rng.normal(0, 0.5, 150) < 0.6 + rng.normal(0, 0.2))
        got = shares([GQA()], runs, "whole", {"gqa": apart(150)}, draws=300)
        a, b = ([got[row, seed] for seed in range(3)] for row in "ab")
        held.append(not contrast(a, b)[0].clear)
        fixed.append(not interval(np.mean(a, axis=0), np.mean(b, axis=0)).clear)
    assert 0.93 < np.mean(held) < 1 and np.mean(fixed) < 0.75


def test_the_p_of_several_seeds_is_welch_s_where_images_say_nothing():
    """Every question is answered alike, so that all there is to it are the seeds."""
    a, b = [60.0, 70.0, 65.0], [50.0, 52.0, 51.0, 49.0]
    rows = [[np.full(201, share) for share in row] for row in (a, b)]
    gap, p = contrast(*rows)
    told = ttest_ind(a, b, equal_var=False)
    assert p == pytest.approx(told.pvalue)
    bounds = told.confidence_interval()
    assert (gap.low, gap.high) == pytest.approx((bounds.low, bounds.high))


def test_draws_over_images_count_as_known_in_the_degrees_of_freedom():
    """Three seeds with a variance of 25, and two draws with a variance of 9: Satterthwaite by hand."""
    draws = np.array([0.0, -3.0, 3.0])
    gap, p = contrast([share + draws for share in (60.0, 70.0, 65.0)], [np.full(3, 50.0)])
    variance, freedom = 9 + 25 / 3, (9 + 25 / 3) ** 2 / ((25 / 3) ** 2 / 2)
    assert p == pytest.approx(2 * t.sf(15 / np.sqrt(variance), freedom))
    assert gap.high - 15 == pytest.approx(t.ppf(0.975, freedom) * np.sqrt(variance))


def test_the_measured_difference_is_no_draw():
    """Draws of 9 and 11 have a standard error of 1, whatever was measured."""
    assert contrast([np.array([3.0, 9.0, 11.0])], [np.zeros(3)])[1] == pytest.approx(2 * norm.sf(3))


def test_equal_seeds_and_single_ones_leave_the_interval_to_the_images():
    rng = np.random.default_rng(8)
    one, other = rng.normal(90, 1, 2001), rng.normal(88, 1, 2001)
    alone = contrast([one], [other])
    gap, p = contrast([one, one, one], [other])
    assert (gap.low, gap.high, p) == pytest.approx((alone[0].low, alone[0].high, alone[1]))


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    assert Interval(0.5, -1.9, 1.9).within(2) and not Interval(0.5, -1.0, 2.0).within(2)
    assert not Interval(-0.5, -2.0, 1.0).within(2)
    assert not Interval(0.0, -9.0, 9.0).within(2)  # no difference found, and none excluded


def test_an_interval_that_ends_at_zero_is_not_clear():
    assert not Interval(0.0, 0.0, 0.0).clear  # two runs with the same answers
    assert not Interval(1.0, 0.0, 2.0).clear and not Interval(-1.0, -2.0, 0.0).clear
