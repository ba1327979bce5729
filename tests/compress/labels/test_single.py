"""Searching one sample is what labelling does for many."""

from __future__ import annotations

import pytest

from compress.labels.labelling import LabelConfig, Labeller, sample_key, sample_seed
from compress.labels.single import group_tokens, search_sample
from compress.micro.world import render, scene
from compress.models.loading import MLLM, load
from compress.samples import Sample
from evosearch import GridGroups, RandomSearch

QUESTION, ANSWER = "what color is the diamond ?", "green"


@pytest.fixture(scope="module")
def micro() -> MLLM:
    return load("micro")


def test_it_finds_what_labelling_finds(micro: MLLM) -> None:
    image = render(scene("test", 9))
    sample = Sample("one", image, QUESTION, (ANSWER,))
    label = Labeller(micro, LabelConfig(evaluations=60))(sample)
    seed = sample_seed(0, sample_key(sample))
    found = search_sample(micro, image, QUESTION, ANSWER, seed=seed, evaluations=60)
    assert found.kept == label.kept
    assert found.result.loss == label.loss_after and found.loss_full == label.loss_full


def test_positions_are_those_that_are_asked_for(micro: MLLM) -> None:
    image = render(scene("test", 9))
    losses = {
        positions: search_sample(
            micro, image, QUESTION, ANSWER, 4, strategy=RandomSearch(), evaluations=5, positions=positions
        ).result.loss
        for positions in ("original", "compact")
    }
    assert losses["original"] != losses["compact"]


def test_without_an_answer_it_scores_the_model_s_own(micro: MLLM) -> None:
    image = render(scene("test", 9))
    found = search_sample(micro, image, QUESTION, keep=4, strategy=RandomSearch(), evaluations=5)
    assert found.response == micro.answer([image], [QUESTION])[0] and len(found.kept) == 4


def test_groupers_are_objects_or_specs(micro: MLLM) -> None:
    embedded = micro.embed(render(scene("test", 9)), QUESTION, ANSWER)
    by_name = group_tokens(micro, embedded, 9, "grid")
    by_object = group_tokens(micro, embedded, grouper=GridGroups(groups=9, grid=embedded.grid))
    assert by_name.groups == by_object.groups


def test_what_cannot_be_searched_is_refused(micro: MLLM) -> None:
    image = render(scene("test", 9))
    with pytest.raises(ValueError, match="no answer to score"):
        search_sample(micro, image, QUESTION, " ")
    with pytest.raises(ValueError, match="between 1 and the 144 visual tokens"):
        search_sample(micro, image, QUESTION, ANSWER, 145)
