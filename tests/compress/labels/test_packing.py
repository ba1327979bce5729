"""Samples whose candidates share batches get the labels that each gets alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.labels import KINDS, LabelConfig, Labeller, fitness, label
from compress.labels.fitness import AnswerLoss, AnswerLosses, TokenBudget
from compress.labels.forward import Past, Paths, outputs, past
from compress.labels.labelling import Nearest
from compress.models.loading import MLLM
from compress.samples import Sample
from evosearch import Vocabulary

QUESTIONS = [  # of three lengths
    ("what color is the circle ?", "red"),
    ("how many are there ?", "two"),
    ("what is the shape of the large one to the left of the small red star in the image ?", "the ring"),
]


@pytest.fixture(scope="module")
def samples(pictures) -> list[Sample]:
    return [
        Sample(f"s{i}", pictures[i % 4], question, (answer,), task="gqa")
        for i, (question, answer) in enumerate(QUESTIONS * 3)
    ]


def outcome(one):
    return replace(one, seconds=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_a_pack_equal_those_of_each_alone(tiny: MLLM, samples: list[Sample], kind: str) -> None:
    labeller = Labeller(tiny, LabelConfig(kind, evaluations=60))
    together, single = labeller.many(samples[:5]), [labeller(one) for one in samples[:5]]
    for packed, own in zip(together, single, strict=True):
        assert packed.kept == own.kept and packed.evaluations == own.evaluations
        assert packed.loss_after == pytest.approx(own.loss_after, abs=1e-5)
        assert packed.loss_before == pytest.approx(own.loss_before, abs=1e-5)
        assert packed.loss_full == own.loss_full
    assert len({packed.kept for packed in together}) >= 4  # there are four images


@pytest.mark.parametrize("family", ["tiny", "tiny_next", "tiny_qwen"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_losses_are_the_same_beside_any_others(
    family: str, positions: str, samples: list[Sample], request
) -> None:
    mllm = request.getfixturevalue(family)
    embedded = [mllm.embed(one.image, one.question, one.answers[0]) for one in samples[:6]]
    rng = np.random.default_rng(0)
    asked = {
        place: np.stack([np.sort(rng.choice(len(one.visual), 8, replace=False)) for _ in range(5 + place)])
        for place, one in enumerate(embedded)
    }
    packed = AnswerLosses(mllm, dict(enumerate(embedded)), positions=positions)
    found = packed.launch(asked)()
    for place, one in enumerate(embedded):
        alone = AnswerLoss(mllm, one, positions=positions)
        np.testing.assert_allclose(found[place], alone(asked[place]), atol=1e-6)
        assert packed.full[place] == pytest.approx(alone.full, abs=1e-6)
        one_by_one = [alone(indices[None])[0] for indices in asked[place]]
        np.testing.assert_allclose(found[place], one_by_one, atol=1e-6)


def test_batches_of_a_shape_are_all_of_one_size_and_the_prefix_is_computed_once(
    tiny: MLLM, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    seen: list[tuple[int, ...]] = []

    def begin(decoder: Any, rows: Tensor) -> list[Past]:
        begun.append(len(rows))
        return past(decoder, rows)

    def watched(decoder: Any, embeds: Tensor, paths: Paths, *given: Any) -> Tensor:
        seen.append(tuple(paths.rows.shape))
        return outputs(decoder, embeds, paths, *given)

    monkeypatch.setattr(fitness, "past", begin)
    monkeypatch.setattr(fitness, "outputs", watched)
    embedded = {one.id: tiny.embed(one.image, one.question, one.answers[0]) for one in samples}
    losses = AnswerLosses(tiny, embedded, budget=TokenBudget(100))
    assert begun == [2] and len(seen) == len(samples)  # a prefix of two words, then all tokens
    assert all(count == 1 and length > 144 for count, length in seen)
    seen.clear()
    losses.launch({key: np.arange(16)[None] for key in embedded})()
    # three candidates of each of three lengths
    assert sorted(seen) == [(2, 40), (2, 40), (4, 24), (4, 25)]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (36, [36]), (48, [24, 24]), (85, [29, 28, 28])])
def test_batches_on_a_cpu_are_even_and_full(count: int, sizes: list[int]) -> None:
    budget = TokenBudget.for_device(torch.device("cpu"))
    found, left = [], count
    while left > 0:
        found.append(budget.at_once(31, left))
        left -= found[-1]
    assert found == sizes and budget.rows // 31 == 41


def test_losses_on_a_cpu_are_the_same_bits_however_many_go_together(
    tiny: MLLM, samples: list[Sample]
) -> None:
    embedded = tiny.embed(samples[0].image, samples[0].question, samples[0].answers[0])
    rng = np.random.default_rng(0)
    candidates = np.stack([np.sort(rng.choice(144, 16, replace=False)) for _ in range(48)])
    losses = AnswerLosses(tiny, {0: embedded})
    whole = losses.launch({0: candidates})()[0]
    for count in (1, 2, 3, 7, 36):
        assert np.array_equal(losses.launch({0: candidates[:count]})()[0], whole[:count])


def test_memory_that_runs_out_halves_the_batches_for_good(
    tiny: MLLM, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = tiny.embed(samples[0].image, samples[0].question, samples[0].answers[0])
    candidates = np.stack([np.arange(start, start + 16) for start in range(40)])
    budget, counts = TokenBudget(512), []
    expected = AnswerLosses(tiny, {0: embedded}, budget=TokenBudget(512)).launch({0: candidates})()[0]
    losses = AnswerLosses(tiny, {0: embedded}, budget=budget)
    limit = 5

    def small(decoder: Any, embeds: Tensor, paths: Paths, *given: Any) -> Tensor:
        counts.append(len(paths.rows))
        if len(paths.rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outputs(decoder, embeds, paths, *given)

    monkeypatch.setattr(fitness, "outputs", small)
    np.testing.assert_allclose(losses.launch({0: candidates})()[0], expected, atol=1e-5)
    assert counts == [20, 10] + [5] * 8 and budget.rows == 5 * 25
    counts.clear()
    losses.launch({0: candidates[:5]})()
    assert counts == [5]
    limit = 0
    with pytest.raises(ValueError, match="there is not enough memory for one candidate"):
        losses.launch({0: candidates})


def test_one_bad_sample_fails_alone(tiny: MLLM, samples: list[Sample], tmp_path) -> None:
    bad = replace(samples[1], answers=())
    quick = LabelConfig(evaluations=60)
    made = Labeller(tiny, quick).many([samples[0], bad, samples[2]])
    assert str(made[1]) == "sample 'gqa/s1': it has no gold answer to score"
    assert made[0].kept and made[2].kept
    whole = label(tiny, [samples[0], *samples[2:5]], tmp_path / "whole", quick)
    store = label(tiny, [samples[0], bad, *samples[2:5]], tmp_path / "packed", quick, together=3)
    key = lambda one: one.id  # noqa: E731
    assert sorted(map(outcome, store), key=key) == sorted(map(outcome, whole), key=key)
    assert "no gold answer" in (tmp_path / "packed" / "quarantine-labels.json").read_text()


def test_nearest_words_are_those_of_the_grouper() -> None:
    rng = np.random.default_rng(0)
    words, vectors = rng.normal(size=(300, 16)), rng.normal(size=(50, 16)).astype(np.float32)
    words[7] = 0
    words = words.astype(np.float32)
    nearest = Nearest(torch.from_numpy(words))
    nearest.BLOCK = 64
    expected = Vocabulary(4, words).labels(vectors)
    assert nearest(vectors).tolist() == expected.tolist()
    assert Vocabulary(4, words, nearest).labels(vectors).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 30
