"""How far a choice follows the question: AUC, overlap and shares of methods whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines import METHODS
from bench.evaluation.question import auc, labelled, sensitivity, tokens_asked
from bench.tasks import TASKS
from bench.tasks.mixture import training_samples
from compress.base import Scorer
from compress.labels import Label
from compress.models.loading import MODELS, load

pytestmark = pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")


@pytest.fixture(scope="module")
def micro():
    return load("micro")


@pytest.fixture(scope="module")
def samples():
    return TASKS["scenes"]().micro(24, "val")


class Knows(Scorer):
    """Scores the tokens of asked things 1: it is told the question's things in the order of the samples."""

    def __init__(self, samples):
        self.left = iter(samples)

    def score(self, view):
        shown = tokens_asked(next(self.left), len(view.index))
        return torch.zeros(len(view.index)) if shown is None else torch.from_numpy(shown[0]).float()


def test_auc_counts_ties_half():
    scores = np.array([3.0, 1.0, 1.0, 0.0])
    assert auc(scores, np.array([1, 0, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == 1
    assert auc(scores, np.array([0, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool)) == 0.75
    assert auc(np.zeros(4), np.array([1, 0, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == 0.5


def test_a_method_that_knows_what_is_asked_gains_by_the_question(micro, samples):
    found = sensitivity(micro, Knows(samples), 16, samples, batch=5)
    assert found.own.difference == 1
    assert found.other.difference < 0.8
    assert found.gain.difference == pytest.approx(1 - found.other.difference)
    assert found.asked.difference > 3 * found.area.difference
    assert found.overlap.difference < 0.9
    assert {name: one.difference for name, one in found.families.items()} == dict.fromkeys(found.families, 1)
    assert {"color", "exist", "relation"} <= found.families.keys()


def test_a_method_that_ignores_the_question_gains_nothing(micro, samples):
    found = sensitivity(micro, METHODS["cover"](), 16, samples)
    assert (found.gain.difference, found.overlap.difference) == (0, 1)
    assert found.own.difference == found.other.difference
    assert abs(found.own.difference - 0.5) < 0.1


def test_the_words_of_the_question_find_its_things(micro, samples):
    found = sensitivity(micro, METHODS["words"](), 16, samples)
    assert found.own.difference > 0.65 and found.gain.low > 0.1


def test_labels_are_measured_by_their_scores_or_else_by_what_they_keep():
    samples = training_samples(8, questions=4)
    shown = [tokens_asked(sample, 144) for sample in samples]
    kept = [tuple(np.flatnonzero(one[0])[:2]) if one else (0,) for one in shown]
    scores = [tuple(one[0].astype(float)) if one else (0.0,) * 144 for one in shown]
    labels = [Label(sample.id, keep, 1, 1, 1, 1, 0, 0) for sample, keep in zip(samples, kept, strict=True)]
    chosen = labelled(labels, samples, 144)
    assert 0.5 < chosen.own.difference < 1 and chosen.asked.difference == 1
    scored = [replace(one, score=score) for one, score in zip(labels, scores, strict=True)]
    assert labelled(scored, samples, 144).own.difference == 1
    with pytest.raises(ValueError, match="no image has two questions"):
        labelled(labels[::4], samples[::4], 144)


def test_images_with_one_question_each_are_refused(micro):
    samples = TASKS["gqa"]().micro(4)
    with pytest.raises(ValueError, match="no image has two questions"):
        sensitivity(micro, METHODS["cover"](), 16, samples)
