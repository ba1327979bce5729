"""The loop: exact budgets, a memo, reasons to stop, and resuming as if nothing had happened."""

from __future__ import annotations

import os
import pickle
from itertools import product

import numpy as np
import pytest

from evosearch import STRATEGIES, Budget, Evolution, Grouping, RandomSearch, search
from evosearch.search import STALE


class KilledError(Exception):
    pass


def same(first, second) -> bool:
    columns = ("iteration", "evaluations", "best", "mean", "hit_rate")
    return (
        first.archive.indices.tobytes() == second.archive.indices.tobytes()
        and first.archive.losses.tobytes() == second.archive.losses.tobytes()
        and first.indices.tolist() == second.indices.tolist()
        and first.logbook.select(*columns) == second.logbook.select(*columns)
        and list(first.hall_of_fame) == list(second.hall_of_fame)
        and first.stopped == second.stopped
    )


def test_one_sensor_per_room_for_the_largest_coverage():
    """No model anywhere: 5 rooms, 4 places each; a place sees some of 40 points, and one choice sees them
    all."""
    rng = np.random.default_rng(1)
    sees = rng.random((20, 40)) < 0.25
    planted = [1, 6, 8, 15, 18]
    sees[planted] = np.eye(5, dtype=bool)[np.arange(40) % 5].T | (rng.random((5, 40)) < 0.1)
    rooms = Grouping(tuple(tuple(range(start, start + 4)) for start in range(0, 20, 4)), items=20)

    def unseen(indices):
        return 1 - sees[indices].any(axis=1).mean(axis=1)

    everything = rooms.indices(list(product(range(4), repeat=5)))
    assert (unseen(everything) == 0).sum() == 1  # the plant is the only optimum
    result = search(rooms, unseen, Evolution(), seed=0)
    assert result.loss == 0 and result.indices.tolist() == planted and result.evaluations < 408


def test_result_agrees_with_itself(planted):
    problem = planted(groups=10, size=6)
    result = search(problem.space, problem, Evolution(), seed=1, budget=300)
    archive = result.archive
    assert archive.indices.shape == (300, 10) and archive.losses.shape == (300,) and result.evaluations == 300
    assert result.loss == archive.losses.min() == result.best.loss == result.logbook[-1]["best"]
    assert problem.space.indices([result.best])[0].tolist() == result.indices.tolist()
    assert np.array_equal(problem(archive.indices), archive.losses)
    assert [one.loss for one in result.hall_of_fame] == np.sort(archive.losses)[:10].tolist()
    assert result.logbook.select("iteration") == list(range(result.iterations + 1))


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_is_evaluated_twice_and_budget_is_exact(name, planted):
    for budget in (1, 47, 100):
        problem = planted(groups=5, size=4)
        result = search(problem.space, problem, STRATEGIES[name](), seed=2, budget=budget)
        assert len(problem.seen) == len(set(problem.seen)) == result.evaluations == budget
        assert result.stopped == f"budget of {budget} evaluations spent"


def test_memo_reports_its_hits(planted):
    problem = planted(groups=2, size=3)
    result = search(problem.space, problem, RandomSearch(batch=30), budget=Budget(iterations=9))
    assert result.evaluations == 9 and result.archive.asked == 300 and result.hit_rate == pytest.approx(0.97)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "uniform"])
def test_a_space_smaller_than_the_budget_ends(name, planted):
    problem = planted(groups=2, size=3)
    result = search(problem.space, problem, STRATEGIES[name](), budget=1000)
    assert result.evaluations <= 9 and result.loss == problem.optimum
    assert result.stopped in ("converged: no new candidate in 20 iterations", "the strategy has finished")


def test_budget_of_iterations_counts_batches_after_the_first(planted):
    problem = planted()
    result = search(problem.space, problem, Evolution(iterations=None), budget=Budget(iterations=3))
    assert result.iterations == 3 and result.evaluations <= 48 + 3 * 36
    assert result.stopped == "budget of 3 iterations spent"


def test_budget_of_seconds_and_the_clock(planted):
    problem = planted()
    result = search(problem.space, problem, RandomSearch(), budget=Budget(seconds=0.02))
    times = result.logbook.select("seconds")
    assert times[-2] < 0.02 <= times[-1] == result.seconds and times == sorted(times)


def test_patience_counts_iterations_without_improvement(planted):
    space = planted(groups=12, size=5).space
    result = search(space, lambda indices: np.ones(len(indices)), Evolution(), patience=4, budget=1000)
    assert result.iterations == 4 and result.stopped == "no improvement in 4 iterations"


def test_an_equal_loss_is_no_improvement(planted):
    space = planted(groups=6, size=5).space
    result = search(
        space, lambda indices: np.zeros(len(indices)), RandomSearch(batch=4), patience=3, hall=100
    )
    assert result.iterations == 3
    first = result.archive.indices[0].tolist()
    assert first == result.indices.tolist() == space.indices([result.best])[0].tolist()


def test_the_mean_of_a_batch_that_the_budget_cuts_is_of_what_was_measured(planted):
    problem = planted()
    result = search(problem.space, problem, RandomSearch(), budget=10)
    assert result.logbook[0]["mean"] == pytest.approx(result.archive.losses.mean())
    assert result.hit_rate == 0  # what was not measured was not known before


def test_a_search_that_finds_nothing_new_in_twenty_iterations_has_converged():
    only = Grouping(((0,), (1,)), 2)
    result = search(only, lambda indices: np.zeros(len(indices)), RandomSearch())
    assert (result.iterations, result.evaluations) == (STALE, 1) == (20, 1)
    assert result.stopped == "converged: no new candidate in 20 iterations"


def test_callbacks_see_every_iteration_and_may_stop(planted):
    problem, seen = planted(), []

    def enough(progress):
        return progress.iteration == 2

    result = search(problem.space, problem, Evolution(), callbacks=[seen.append, enough])
    assert [p.iteration for p in seen] == [0, 1, 2] and result.iterations == 2
    assert "enough" in result.stopped
    for progress in seen:
        assert problem(progress.indices[None])[0] == progress.best <= progress.mean
    assert seen[-1].evaluations == result.evaluations and seen[-1].seconds <= result.seconds


def test_a_callback_may_answer_with_numpys_true_but_not_with_any_other_value(planted):
    problem = planted(groups=10, size=6)
    losses = problem(problem.space.indices(np.zeros((1, 10), int)))

    def reached(progress):
        return progress.best < losses[0] + 100  # a comparison with a number of numpy is of its type

    result = search(problem.space, problem, Evolution(), callbacks=[reached])
    assert "reached asked to stop" in result.stopped and result.iterations == 0
    assert search(problem.space, problem, Evolution(), callbacks=[lambda _: 1]).iterations > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_name_the_candidate(bad, planted):
    space = planted(groups=3, size=4).space

    def fitness(indices):
        return np.where(np.arange(len(indices)) == 5, bad, 1.0)

    with pytest.raises(ValueError, match=rf"gave {bad} for evaluation 6 \(kept items \d+, \d+, \d+\)"):
        search(space, fitness, Evolution())


@pytest.mark.parametrize("answer", [lambda i: np.zeros(3), lambda i: np.zeros((len(i), 1)), lambda i: 0.0])
def test_losses_of_the_wrong_shape_are_refused(answer, planted):
    with pytest.raises(ValueError, match=r"must return losses \[48\]"):
        search(planted().space, answer, Evolution())


def test_fitness_may_write_into_what_it_gets(planted):
    problem = planted(groups=6, size=4)

    def rude(indices):
        losses = problem(indices)
        indices[:] = 0
        return losses

    clean = search(problem.space, problem, Evolution(), budget=150)
    assert same(search(problem.space, rude, Evolution(), budget=150), clean)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_is_left_as_it_was(name, planted):
    problem, strategy = planted(groups=12, size=5), STRATEGIES[name]()
    before = pickle.dumps(strategy)
    first, second = (search(problem.space, problem, strategy, seed=7, budget=120) for _ in range(2))
    assert pickle.dumps(strategy) == before and same(first, second)
    assert not same(first, search(problem.space, problem, strategy, seed=8, budget=120))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kill_at", [0, 1, 2])
def test_killed_and_resumed_equals_never_killed(name, kill_at, planted, tmp_path):
    problem, path = planted(groups=12, size=5), tmp_path / "search.pkl"
    whole = search(problem.space, problem, STRATEGIES[name](), seed=1, budget=200)

    def between(progress):
        if progress.iteration == kill_at:
            raise KilledError

    calls = 0

    def within(indices):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KilledError
        return problem(indices)

    with pytest.raises(KilledError):
        search(
            problem.space,
            problem,
            STRATEGIES[name](),
            seed=1,
            budget=200,
            checkpoint=path,
            callbacks=[between],
        )
    with pytest.raises(KilledError):
        search(problem.space, within, STRATEGIES[name](), seed=1, budget=200, checkpoint=path)
    problem.seen.clear()
    resumed = search(problem.space, problem, STRATEGIES[name](), seed=1, budget=200, checkpoint=path)
    assert same(resumed, whole) and 0 < len(problem.seen) < 200
    assert [file.name for file in tmp_path.iterdir()] == ["search.pkl"]


def test_finished_checkpoint_returns_at_once(planted, tmp_path):
    problem, path = planted(), tmp_path / "search.pkl"
    first = search(problem.space, problem, Evolution(), checkpoint=path)
    problem.seen.clear()
    again = search(problem.space, problem, Evolution(), checkpoint=path)
    assert same(first, again) and not problem.seen and again.seconds == first.seconds


@pytest.mark.parametrize(
    "change, difference",
    [
        ({"seed": 2}, "seed is 0 there and 2 here"),
        ({"budget": 300}, "budget evaluations is 100 there and 300 here"),
        ({"patience": 3}, "patience is None there and 3 here"),
        ({"problem": "b"}, "problem is a there and b here"),
        ({"strategy": Evolution(edge="wrap")}, "edge='wrap'"),
        ({"strategy": RandomSearch()}, "strategy is Evolution there and RandomSearch here"),
        ({"space": Grouping(((0, 1), (2, 3)), 4)}, "groups is 12 of 60 items"),
    ],
)
def test_checkpoint_of_another_search_is_refused_by_name(change, difference, planted, tmp_path):
    problem, path = planted(groups=12, size=5), tmp_path / "search.pkl"
    given = {
        "space": problem.space,
        "strategy": Evolution(),
        "budget": 100,
        "problem": "a",
        "checkpoint": path,
    }
    search(fitness=problem, **given)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=difference):
        search(fitness=problem, **(given | change))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1, 2]), b"\x80\x04broken"])
def test_damaged_checkpoint_is_refused(content, planted, tmp_path):
    problem, path = planted(), tmp_path / "search.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable search checkpoint"):
        search(problem.space, problem, Evolution(), checkpoint=path)


def test_a_fifo_as_a_checkpoint_is_refused(planted, tmp_path):
    problem, path = planted(), tmp_path / "search.pkl"
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a readable search checkpoint"):
        search(problem.space, problem, Evolution(), checkpoint=path)


def test_full_disk_leaves_the_old_checkpoint(planted, tmp_path, monkeypatch):
    problem, path = planted(), tmp_path / "search.pkl"
    search(problem.space, problem, Evolution(), checkpoint=path, callbacks=[lambda progress: True])
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        search(problem.space, problem, Evolution(), checkpoint=path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_result_pickles(planted):
    problem = planted(groups=12, size=5)
    result = search(problem.space, problem, Evolution(), budget=100)
    assert same(pickle.loads(pickle.dumps(result)), result)


def test_numbers_may_be_numpys(planted):
    problem = planted(groups=4, size=3)
    plain = search(problem.space, problem, RandomSearch(), seed=3, budget=30)
    numpys = search(problem.space, problem, RandomSearch(), seed=np.int64(3), budget=np.int32(30))
    assert numpys.archive.indices.tolist() == plain.archive.indices.tolist()
    for wrong in ({"seed": "3"}, {"seed": None}, {"budget": 30.0}, {"budget": "30"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*give a whole number"):
            search(problem.space, problem, RandomSearch(), **wrong)


def test_a_strategy_that_no_checkpoint_can_hold_is_refused_before_it_costs(planted, tmp_path):
    problem, evolution = planted(groups=4, size=3), Evolution()
    evolution.toolbox.register("mutate", lambda ind: (ind,))
    with pytest.raises(ValueError, match=r"checkpoint .* cannot hold this search .*lambda.*top level"):
        search(problem.space, problem, evolution, checkpoint=tmp_path / "search")
    assert not problem.seen and not list(tmp_path.iterdir())


@pytest.mark.parametrize("limits", [{}, {"evaluations": 0}, {"iterations": -1}, {"seconds": float("nan")}])
def test_budgets_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="budget"):
        Budget(**limits)


@pytest.mark.parametrize("options", [{"patience": 0}, {"hall": 0}])
def test_options_that_make_no_sense_are_refused(options, planted):
    problem = planted()
    with pytest.raises(ValueError, match=next(iter(options))):
        search(problem.space, problem, Evolution(), **options)


def test_the_name_of_a_strategy_is_refused(planted):
    problem = planted(groups=3, size=2)
    with pytest.raises(ValueError, match="strategy='evolution': give a strategy such as Evolution"):
        search(problem.space, problem, "evolution")
