"""The miniature benchmarks have the form and the metric of their big sisters."""

from dataclasses import replace

import numpy as np
import pytest

from bench.tasks import BENCHMARKS, TASKS
from bench.tasks.load import load_tasks
from bench.tasks.mixture import labelled_samples, training_sample, training_samples
from bench.tasks.vqa import accuracy
from compress.micro.worlds import BUSY, MICRO, world_of


@pytest.fixture(scope="module")
def data():
    return {name: (task(), task().micro(24)) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
def test_samples_are_reproducible_and_ids_unique(name, data):
    task, samples = data[name]
    again = task.micro(24)
    assert len(samples) == len({s.id for s in samples}) == (96 if name.startswith("mmbench") else 24)
    assert all(
        a.id == b.id and a.question == b.question and a.visual == b.visual
        for a, b in zip(samples, again, strict=True)
    )


@pytest.mark.parametrize("name", TASKS)
def test_more_samples_begin_with_the_fewer(name, data):
    task, samples = data[name]
    assert [s.question for s in task.micro(12)] == [s.question for s in samples[: len(samples) // 2]]


@pytest.mark.parametrize("name", TASKS)
def test_gold_answers_score_full_marks_and_nonsense_none(name, data):
    task, samples = data[name]
    assert task.score(samples, [s.answers[0] for s in samples]) > 99.9
    assert task.score(samples, ["xyzzy"] * len(samples)) == 0


def test_splits_show_different_images(data):
    task, samples = data["gqa"]
    assert not {s.image.tobytes() for s in samples} & {s.image.tobytes() for s in task.micro(24, "val")}


def test_pope_is_balanced_and_averages_three_f1(data):
    task, samples = data["pope"]
    assert [s.answers[0] for s in samples].count("yes") == 12
    assert {s.info["subset"] for s in samples} == {"random", "popular", "adversarial"}
    assert task.score(samples, ["yes"] * 24) == pytest.approx(100 * 2 / 3)  # F1 of precision 1/2, recall 1
    truth = [s.answers[0] for s in samples]
    worse = ["no" if s.info["subset"] == "random" else t for s, t in zip(samples, truth, strict=True)]
    assert task.score(samples, worse) == pytest.approx(100 * 2 / 3)  # (0 + 1 + 1) / 3


def test_mmbench_needs_all_four_rotations(data):
    task, samples = data["mmbench"]
    assert task.score(samples, ["a"] * 96) == 0
    right = [s.answers[0] for s in samples]
    assert sorted(right[:4]) == ["a", "b", "c", "d"]
    assert task.score(samples, ["b" if right[0] == "a" else "a", *right[1:]]) == pytest.approx(100 * 23 / 24)


@pytest.mark.parametrize("name", TASKS)
def test_every_unit_has_a_credit_and_statistics(name, data):
    task, samples = data[name]
    said = [s.answers[0] if i % 3 else "xyzzy" for i, s in enumerate(samples)]
    credit, sums = task.credit(samples, said), task.statistics(samples, said)
    assert len(credit) == len(sums) == len(task.images(samples)) == {"scenes": 6, "mme": 12}.get(name, 24)
    assert 0 <= credit.min() < 1 and credit.max() <= 1
    assert isinstance(task.version, int)


def test_units_about_one_scene_name_the_same_image(data):
    """Also across tasks: MMBench-CN asks what MMBench asks. All other tasks have scenes of their own."""
    images = {name: task.images(samples) for name, (task, samples) in data.items()}
    assert images["mmbench"] == images["mmbench-cn"] and len(set(images["mmbench"])) == 24
    assert len(set(images["pope"])) == 12  # a yes and a no about each
    assert not set(images["gqa"]) & {
        one for name, listed in images.items() if name != "gqa" for one in listed
    }


def test_the_default_is_four_hundred_distinct_questions():
    for task, samples in load_tasks(BENCHMARKS).items():
        assert len({task.unit(one) for one in samples}) == 400
        asked = {(s.question, s.picture_digest) for s in samples if s.info.get("copy", 0) == 0}
        assert len(asked) >= 396, task.name  # POPE may ask for one thing twice under two subsets


def test_what_does_not_say_yes_says_no_for_pope(data):
    task, samples = data["pope"]
    yes, no = (next(s for s in samples if s.answers[0] == word) for word in ("yes", "no"))
    assert [task.correct(yes, said) for said in ("yes", "Yes .", "no", "red")] == [1, 1, 0, 0]
    assert [task.correct(no, said) for said in ("yes", "no", "red")] == [0, 1, 1]


def test_mmbench_cn_asks_in_other_words(data):
    english = {w for s in data["mmbench"][1] for w in s.question.split()} - {"a", "b", "c", "d", "?", "."}
    chinese = {w for s in data["mmbench-cn"][1] for w in s.question.split()} - {"a", "b", "c", "d", "?", "."}
    assert not english & chinese


def test_vqa_soft_accuracy_leaves_one_annotator_out():
    """Official form: mean over the ten subsets of nine annotators of min(1, matches / 3)."""
    for agree in range(11):
        answers = ["red"] * agree + [f"other{i}" for i in range(10 - agree)]
        official = np.mean(
            [min(1, sum(a == "red" for j, a in enumerate(answers) if j != i) / 3) for i in range(10)]
        )
        assert accuracy(answers, "Red.") == pytest.approx(official)


def test_vizwiz_has_bad_photographs_and_unanswerable_questions(data):
    answers = [s.answers[0] for s in data["vizwiz"][1]]
    assert 3 <= answers.count("unanswerable") <= 12


@pytest.mark.parametrize(
    ("task", "family"),
    [("docvqa", "read"), ("ocrbench", "read"), ("chartqa", "count"), ("ai2d", "choose"), ("mmmu", "choose")],
)
@pytest.mark.parametrize("world", [MICRO, BUSY], ids=lambda world: world.name)
def test_a_miniature_asks_the_family_that_its_benchmark_is_about(task, family, world):
    made = TASKS[task]().micro(6, world=world)
    assert len({one.picture_digest for one in made}) == 6
    assert {one.family for one in made} == {family}


def test_a_label_store_key_finds_its_sample_again():
    samples = training_samples(5, start=10)
    found = labelled_samples(f"mixture/{s.id}" for s in samples)
    assert [(s.id, s.question, s.image) for s in found] == [(s.id, s.question, s.image) for s in samples]
    with pytest.raises(ValueError, match="not of the micro mixture"):
        labelled_samples(["gqa/gqa-test-1"])


def test_the_busy_mixture_asks_four_questions_about_each_scene():
    samples = training_samples(12, start=8, world=BUSY)
    assert [one.id for one in samples[:5]] == [
        f"busy-mixture-train-{place}" for place in ("2.0", "2.1", "2.2", "2.3", "3.0")
    ]
    by_scene = [samples[start : start + 4] for start in (0, 4, 8)]
    assert all(len({one.picture_digest for one in scene}) == 1 for scene in by_scene)
    assert all(len({one.question for one in scene}) == 4 for scene in by_scene)
    assert labelled_samples(f"mixture/{one.id}" for one in samples) == samples


def test_questions_of_one_family_about_a_scene_are_drawn_apart():
    twice = replace(BUSY, trained=("color",))
    asked = [training_sample(number, twice).question for number in range(40)]
    assert sum(one == other for one, other in zip(asked[::4], asked[1::4], strict=True)) < 5


def test_the_mixture_asks_one_or_four_questions_about_a_scene_as_it_is_told():
    four = training_samples(8, world=MICRO, questions=4)
    assert [one.id for one in four[3:6]] == [f"mixture-train-{place}" for place in ("0.3", "1.0", "1.1")]
    assert labelled_samples(f"mixture/{one.id}" for one in four) == four
    one = training_samples(3, world=BUSY, questions=1)
    assert [sample.id for sample in one] == [f"busy-mixture-train-{place}" for place in (0, 1, 2)]
    assert labelled_samples(f"mixture/{sample.id}" for sample in one) == one
    with pytest.raises(ValueError, match="questions=3: the mixture has 1 or 4 questions"):
        training_sample(0, questions=3)


@pytest.mark.parametrize("number", [2354, 5907])
def test_a_scene_without_a_question_of_the_family_is_asked_another(number):
    assert training_sample(number, BUSY).question


@pytest.mark.parametrize("key", ["mixture/mixture-train-3.4", "mixture/calm-mixture-train-3"])
def test_a_key_that_names_no_sample_of_a_mixture_is_refused(key):
    with pytest.raises(ValueError, match="not of the micro mixture"):
        labelled_samples([key])


@pytest.mark.parametrize(
    ("model", "world"),
    [
        ("busy", BUSY),
        ("busy-wide", BUSY),
        ("runs/busy", BUSY),
        ("micro", MICRO),
        ("micro-qwen", MICRO),
        ("llava-hf/llava-1.5-7b-hf", MICRO),
    ],
)
def test_a_model_is_asked_about_its_own_world(model, world):
    assert world_of(model) is world
    made = load_tasks(["gqa"], 2, world=world_of(model))
    assert [one.image.size for (samples,) in [made.values()] for one in samples] == [(world.side,) * 2] * 2


def test_the_six_benchmarks_of_the_paper_are_there():
    assert set(BENCHMARKS) == {"gqa", "mmbench", "mmbench-cn", "pope", "vqav2", "vizwiz"}
