"""Labels: what each kind keeps, and a store that survives whatever happens."""

import multiprocessing
import os
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest

from compress.labels import KINDS, Label, LabelConfig, Problem, audit, label, read_labels, sample_seed, store
from compress.labels.fitness import AnswerLoss
from compress.samples import Sample
from evosearch import alone

QUICK = LabelConfig(evaluations=60)


@pytest.fixture(scope="module")
def samples(pictures) -> list[Sample]:
    questions = [
        ("what color is the circle ?", "red"),
        ("how many are there ?", "two"),
        ("what is left ?", "the ring"),
    ]
    return [
        Sample(f"s{i}", pictures[i % 4], *(lambda q, a: (q, (a,)))(*questions[i % 3]), task="gqa")
        for i in range(6)
    ]


def rows(made) -> list:
    return sorted((replace(one, seconds=0.0) for one in made), key=lambda one: one.id)


def planted(kind: str, noise: float = 0.3, evaluations: int = 408, strategy: str | None = None):
    """A loss that falls by one for each of eight important tokens of 72 that is kept, and the choice of
    `kind`.
    """
    rng = np.random.default_rng(0)
    important = np.sort(rng.choice(72, 8, replace=False))
    drop = np.zeros(72)
    drop[important] = 1.0
    made = KINDS[kind]()
    problem = Problem(
        visual=rng.normal(size=(72, 8)), anchors=rng.normal(size=(20, 8)), grid=(8, 9),
        keep=8, grouper="random", strategy=strategy or made.strategy, evaluations=evaluations, seed=1,
    )  # fmt: skip

    def loss(kept):
        return 8 - drop[kept].sum(1) + noise * rng.normal(size=len(kept))

    return important, alone(made.choose(problem), loss)


def test_attribution_recovers_the_planted_tokens():
    important, choice = planted("attribution")
    assert set(choice.kept) == set(important)
    assert choice.evaluations == 409


def test_elite_finds_most_planted_tokens_that_its_groups_allow():
    important, choice = planted("elite", noise=0.1)
    assert len(set(choice.kept) & set(important)) >= 4  # 8 of 72 by chance: about one
    assert choice.after < choice.before - 2


def test_elite_gives_nothing_to_a_token_that_is_in_every_candidate():
    """Of nine tokens one pair shares a group, so there are two candidates; the better one is the elite."""
    problem = Problem(
        visual=np.zeros((9, 2)), anchors=np.zeros((1, 2)), grid=(3, 3), keep=8, grouper="grid",
        strategy="random", evaluations=2, seed=0,
    )  # fmt: skip
    (pair,) = [group for group in problem.groups().groups if len(group) == 2]
    choice = alone(KINDS["elite"](share=0.5).choose(problem), lambda kept: (kept == pair[0]).any(1) + 1.0)
    expected = np.zeros(9)
    expected[list(pair)] = -0.5, 0.5
    assert choice.score.tolist() == expected.tolist() and pair[1] in choice.kept
    assert 1 < choice.before < 2  # the mean of the first batch
    assert (choice.after, choice.evaluations) == (1, 3)


def test_best_is_the_best_mask_of_the_archive():
    _, choice = planted("best", noise=0)
    assert choice.after < choice.before - 2
    assert choice.score is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_exactly_its_budget_and_reports_true_losses(tiny, samples, tmp_path, kind):
    made = label(tiny, samples[:2], tmp_path, replace(QUICK, kind=kind, keep=12))
    for one, sample in zip(made, samples, strict=False):
        assert len(one.kept) == len(set(one.kept)) == 12
        assert list(one.kept) == sorted(one.kept)
        assert one.score is None or len(one.score) == 144
        loss = AnswerLoss(tiny, tiny.embed(sample.image, sample.question, sample.answers[0]))
        assert one.loss_after == pytest.approx(loss(np.array([one.kept]))[0], abs=1e-5)
        assert one.loss_full == pytest.approx(loss.full, abs=1e-5)
        assert one.seed == sample_seed(0, f"gqa/{sample.id}")
        assert one.evaluations in (1, 60, 61)


def test_a_search_lowers_the_loss_and_defaults_to_a_ninth(tiny, samples, tmp_path):
    made = label(tiny, samples, tmp_path, QUICK)
    assert all(len(one.kept) == 16 for one in made)
    assert all(one.loss_after < one.loss_before for one in made)


def test_labels_depend_neither_on_order_nor_on_workers(tiny, samples, tmp_path):
    single = label(tiny, samples, tmp_path / "1", replace(QUICK, kind="attribution"))
    together = label(tiny, samples[::-1], tmp_path / "2", replace(QUICK, kind="attribution"), workers=2)
    assert rows(single) == rows(together)
    assert [one.id for one in together] == [f"gqa/{one.id}" for one in samples[::-1]]
    other = label(tiny, samples[:1], tmp_path / "3", replace(QUICK, kind="attribution", seed=1))
    assert other.labels[0].kept != single.labels[0].kept


def test_every_sample_has_a_seed_of_its_own_for_ever():
    assert sample_seed(0, "gqa/s0") == 1409790915745933317  # stored labels must stay reproducible
    assert len({sample_seed(run, key) for run in (0, 1) for key in ("gqa/s0", "gqa/s1", "pope/s0")}) == 6


def test_an_interrupted_run_keeps_what_is_finished_and_resumes_to_the_same_store(tiny, samples, tmp_path):
    whole = label(tiny, samples, tmp_path / "whole", QUICK)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(tiny, samples, tmp_path / "cut", QUICK, progress=interrupt)
    assert len(read_labels(tmp_path / "cut")) == 4
    seen: list[tuple[int, int]] = []
    resumed = label(tiny, samples, tmp_path / "cut", QUICK, progress=lambda *at: seen.append(at))
    assert rows(resumed) == rows(whole)
    assert seen == [(4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_resumes_to_the_same_store(tiny, samples, tmp_path, monkeypatch, workers):
    whole = label(tiny, samples, tmp_path / "whole", QUICK)
    monkeypatch.setattr("compress.labels.campaign.SHARD_ROWS", 2)

    def run() -> None:
        def kill(done: int, total: int) -> None:
            if done == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        label(tiny, samples, tmp_path / "cut", QUICK, workers=workers, progress=kill)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(read_labels(tmp_path / "cut")) == 4
    (tmp_path / "cut" / "labels-00002.parquet.part").write_bytes(b"half a shard")
    assert rows(label(tiny, samples, tmp_path / "cut", QUICK)) == rows(whole)
    assert not list((tmp_path / "cut").glob("*.part"))


def test_numpys_numbers_are_settings_that_a_store_holds(tiny, samples, tmp_path):
    config = LabelConfig("random", keep=9, evaluations=np.int64(30), seed=np.int64(3))
    store = label(tiny, samples[:1], tmp_path, config)
    assert (store.settings["evaluations"], store.settings["seed"]) == (30, 3)


def test_another_configuration_is_refused_and_the_difference_named(tiny, samples, tmp_path):
    label(tiny, samples[:1], tmp_path, QUICK)
    with pytest.raises(
        ValueError,
        match="other settings: strategy is 'evolution' there and 'random' here; seed is 0 there and 3 here",
    ):
        label(tiny, samples, tmp_path, replace(QUICK, strategy="random", seed=3))


def test_another_model_is_refused(tiny, samples, tmp_path, monkeypatch):
    label(tiny, samples[:1], tmp_path, QUICK)
    monkeypatch.setattr(type(tiny), "fingerprint", lambda self: "other")
    with pytest.raises(ValueError, match="model is '.*' there and 'other' here"):
        label(tiny, samples, tmp_path, QUICK)


def test_an_audit_with_a_model_of_fewer_tokens_says_that_it_is_another_model(tiny, tmp_path):
    settings = {**asdict(LabelConfig(keep=tiny.visual_tokens + 1)), "visual_tokens": 1, "model": "another"}
    with store.writing(tmp_path, settings) as writer:
        writer.write([Label("a", (0,), 1.0, 1.0, 1.0, 1, 0, 0.0)])
    with pytest.raises(ValueError, match="were made with another model than"):
        audit(tiny, read_labels(tmp_path), [])


def test_a_broken_shard_is_named(tiny, samples, tmp_path):
    label(tiny, samples[:1], tmp_path, QUICK)
    (tmp_path / "labels-00001.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="labels-00001.parquet: unreadable"):
        label(tiny, samples, tmp_path, QUICK)
    with pytest.raises(ValueError, match="no labels here"):
        read_labels(tmp_path / "nowhere")


def test_a_full_disk_leaves_no_half_written_file(tiny, samples, tmp_path, monkeypatch):
    label(tiny, samples[:2], tmp_path, QUICK)

    def full(table, file):
        file.write(b"PAR1 half")
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="cannot write labels to .*: No space left"),
    ):
        patch.setattr(store.pq, "write_table", full)
        label(tiny, samples, tmp_path, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["labels-00000.parquet"]
    assert len(label(tiny, samples, tmp_path, QUICK)) == 6


def test_the_store_is_plain_parquet_with_everything_in_it(tiny, samples, tmp_path):
    made = label(tiny, samples[:2], tmp_path, replace(QUICK, kind="attribution"))
    table = read_labels(tmp_path).table()
    assert table.column("id").to_pylist() == ["gqa/s0", "gqa/s1"]
    assert made["gqa/s1"].kept == tuple(table.column("kept")[1].as_py())
    assert made.settings["strategy"] == "uniform"
    assert made.settings["model"] == tiny.fingerprint()
    assert "gqa/s1" in made
    assert "gqa/s2" not in made


def test_bad_samples_and_settings_are_refused(tiny, samples, pictures, tmp_path):
    with pytest.raises(ValueError, match="sample 'gqa/s0': it has no gold answer"):
        label(tiny, [replace(samples[0], answers=())], tmp_path / "a", QUICK)
    with pytest.raises(ValueError, match="'gqa/s0' occurs twice"):
        label(tiny, [samples[0], samples[0]], tmp_path / "b", QUICK)
    with pytest.raises(ValueError, match="keep=145: choose between 1 and the 144"):
        label(tiny, samples, tmp_path / "c", replace(QUICK, keep=145))
    with pytest.raises(ValueError, match="did you mean 'attribution'"):
        LabelConfig(kind="atribution")
    for kind in ("random", "dpc-knn", "group-attribution"):
        with pytest.raises(ValueError, match="need no search; leave it out"):
            LabelConfig(kind, strategy="evolution")
        assert LabelConfig(kind).resolved(tiny).strategy is None
    with pytest.raises(ValueError, match="did you mean 'vocabulary'"):
        LabelConfig(grouper="vocab")
    assert not list(tmp_path.glob("*/*.parquet"))


def test_group_attribution_finds_the_groups_that_matter_although_any_of_their_tokens_will_do():
    """Twelve groups of twelve; the loss falls by one for group 3 and for 7, whichever token stands in."""
    vectors = np.eye(12)[np.arange(144) // 12] + 0.01 * np.random.default_rng(0).normal(size=(144, 12))

    def loss(indices):
        groups = np.asarray(indices) // 12
        return 2.0 - (groups == 3).any(1) - (groups == 7).any(1)

    problem = Problem(
        visual=vectors, anchors=np.eye(12), grid=(12, 12), keep=8, grouper="vocabulary",
        strategy="evolution", evaluations=200, seed=3,
    )  # fmt: skip
    asked = []

    def noted(indices):
        asked.append(loss(indices))
        return asked[-1]

    choice = alone(KINDS["group-attribution"]().choose(problem), noted)
    assert choice.before == asked[0][:48].mean() != asked[0].mean()  # a random candidate's, as for searches
    best_of = choice.score.reshape(12, 12).max(1)
    assert set(np.argsort(-best_of)[:2].tolist()) == {3, 7}
    assert choice.after == 0 and len(choice.kept) == 8 and choice.evaluations == 201
    assert (np.sort(choice.score[36:48])[::-1] == choice.score[36:48].max() / np.arange(1, 13)).all()
    away = ((vectors[36:48] - vectors[36:48].mean(0)) ** 2).sum(1)
    assert np.argsort(-choice.score[36:48]).tolist() == np.argsort(away).tolist()  # core tokens first
    assert best_of.min() >= best_of.max() / 11 - 1e-12  # the floor is a tenth of the largest worth
