"""Batched losses against the plain loop: the whole sequence, dropped tokens masked out, one candidate per
forward.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.labels.fitness import AnswerLoss


@pytest.fixture(scope="module")
def embedded(tiny, pictures):
    return tiny.embed(pictures[0], "what color is the circle ?", "red")


@pytest.fixture(scope="module")
def candidates() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([np.sort(rng.choice(144, 16, replace=False)) for _ in range(12)])


@torch.no_grad()
def naive(mllm, embedded, kept, positions: str) -> float:
    stays = torch.ones(len(embedded.embeds), dtype=torch.bool)
    stays[embedded.visual] = False
    stays[embedded.visual[kept]] = True
    if positions == "original":
        hidden = mllm.decoder(
            inputs_embeds=embedded.embeds[None], attention_mask=stays[None].long()
        ).last_hidden_state[0]
    else:
        hidden = mllm.decoder(inputs_embeds=embedded.embeds[stays][None]).last_hidden_state[0]
    answers = len(embedded.response)
    return F.cross_entropy(mllm.head(hidden[-answers - 1 : -1]), embedded.response).item()


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_batched_losses_equal_the_naive_loop(tiny, embedded, candidates, positions, max_tokens):
    losses = AnswerLoss(tiny, embedded, positions=positions, max_tokens=max_tokens)(candidates)
    expected = [naive(tiny, embedded, kept, positions) for kept in candidates]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1  # or the test would pass whatever is kept


def test_positions_matter(tiny, embedded, candidates):
    original, compact = (AnswerLoss(tiny, embedded, positions=p)(candidates) for p in ("original", "compact"))
    assert np.abs(original - compact).max() > 1e-3


def test_full_loss_is_the_models_own(tiny, embedded):
    labels = torch.full((1, len(embedded.embeds)), -100)
    labels[0, embedded.prompt :] = embedded.response
    with torch.no_grad():
        own = tiny.model(inputs_embeds=embedded.embeds[None], labels=labels).loss
    assert AnswerLoss(tiny, embedded).full == pytest.approx(own.item(), abs=1e-5)


def test_image_first_and_text_within_the_image_work_too(tiny, embedded, candidates):
    rows = len(embedded.embeds)
    for visual in (torch.arange(144), torch.cat([torch.arange(3, 60), torch.arange(63, 150)])):
        moved = replace(embedded, visual=visual, prompt=rows - len(embedded.response))
        expected = [naive(tiny, moved, kept, "original") for kept in candidates[:3]]
        np.testing.assert_allclose(AnswerLoss(tiny, moved)(candidates[:3]), expected, atol=1e-5)


def test_bad_input_is_refused(tiny, embedded, pictures):
    with pytest.raises(ValueError, match="choose one of original, compact"):
        AnswerLoss(tiny, embedded, positions="renumbered")
    with pytest.raises(ValueError, match="no response"):
        AnswerLoss(tiny, tiny.embed(pictures[0], "what is it ?"))
    broken = replace(embedded, embeds=torch.full_like(embedded.embeds, torch.nan))
    with pytest.raises(ValueError, match="not a finite number"):
        AnswerLoss(tiny, broken)
