from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from baselines import PACT
from baselines.pact import centres_of
from compress.attach.session import attach
from compress.base import View
from compress.models.loading import MLLM

QUESTION = "what color is the star ?"
DEPTH = 1  # layer 4 of 32 in a decoder of 6
pytestmark = pytest.mark.versions


def view_of(hidden: Tensor, queries: Tensor, keys: Tensor, visual: Tensor) -> View:
    rows = torch.arange(len(visual))
    return View(
        4, hidden, hidden[:0], hidden[:0], rows, (1, len(rows)), unrotated=lambda _: (queries, keys, visual),
        decoder_keys=lambda _: (keys[visual], keys[:0]),
    )  # fmt: skip


@pytest.fixture
def view() -> View:
    make = torch.Generator().manual_seed(0)
    hidden, noise = torch.randn(60, 8, generator=make), torch.randn(65, 4, 6, generator=make)
    shared = torch.randn(6, 4, 6, generator=make)[torch.arange(65) % 6]
    return view_of(hidden, noise, (shared + 0.7 * noise)[:, :2], torch.arange(5, 65))


def cosines(unit: Tensor) -> Tensor:
    return 1 - unit @ unit.T


@pytest.mark.parametrize("keep", [1, 2, 7, 20, 33, 40, 59])
def test_a_budget_is_met_exactly_and_every_candidate_joins_its_nearest_centre(view: View, keep: int):
    pact = PACT()
    chosen = pact.select(view, keep)
    assert chosen.into is not None and chosen.tokens is not None
    assert len(chosen.index) == len(chosen.tokens) == keep
    assert (chosen.index.diff() > 0).all()
    assert chosen.into[chosen.index].tolist() == list(range(keep))
    scores = pact.scores(*view.unrotated(4), view.hidden)
    candidates = pact.candidates(scores, keep)
    assert len(candidates) == max(33, keep) and set(chosen.index.tolist()) <= set(candidates.tolist())
    keys = torch.nn.functional.normalize(view.decoder_keys(4)[0].flatten(1), dim=-1)
    apart = cosines(keys)[:, chosen.index]
    others = [each for each in candidates.tolist() if each not in chosen.index]
    assert apart[others].argmin(1).tolist() == chosen.into[others].tolist()
    for centre in range(keep):
        torch.testing.assert_close(chosen.tokens[centre], view.hidden[chosen.into == centre].mean(0))


def test_the_cutoff_of_a_budget_is_the_smallest_distance_that_leaves_no_more():
    place = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0])
    distance = (place[:, None] - place).abs()
    tried = distance.unique().tolist()
    left = [len(PACT(cutoff=cutoff).cluster(distance, 0)[0]) for cutoff in tried]
    assert left == sorted(left, reverse=True)
    for keep in range(1, 6):
        centres, cutoff = PACT().cluster(distance, keep)
        assert len(centres) == keep
        assert cutoff == next(one for one, count in zip(tried, left, strict=True) if count <= keep)


def test_candidates_within_the_cutoff_of_an_earlier_centre_are_none():
    place = np.array([0.0, 1.0, 3.0, 6.0, 10.0])
    distance = np.abs(place[:, None] - place)
    assert centres_of(distance, 3) == [0, 3, 4] and centres_of(distance, 4) == [0, 3]
    assert centres_of(distance[::-1, ::-1], 4) == [0, 2] and centres_of(distance[::-1, ::-1], 3) == [0, 1, 3]


def test_where_a_cutoff_leaves_too_few_the_farthest_become_centres():
    """Three tokens that are equally far from the densest: no cutoff gives two or three centres."""
    distance = torch.tensor([[0.0, 0.5, 0.5, 0.5], [0.5, 0, 1, 1], [0.5, 1, 0, 1], [0.5, 1, 1, 0]])
    assert [len(centres_of(distance.numpy(), cutoff)) for cutoff in (0.4, 0.5)] == [4, 1]
    for keep in (1, 2, 3):
        centres, cutoff = PACT().cluster(distance, keep)
        assert centres.tolist() == list(range(keep)) and cutoff == 0.5


@torch.no_grad()
def expected(mllm: MLLM, picture: Any, pact: PACT) -> dict[int, list[int]]:
    """By centre its members, from the stock model's hidden states and the layer's projections, by loops."""
    inputs = mllm.prepare([picture], [QUESTION])
    visual = mllm.placeholders(inputs["input_ids"][0]).nonzero()[:, 0].tolist()
    hidden = mllm.model(**inputs, output_hidden_states=True).hidden_states[DEPTH]
    layer = mllm.decoder.layers[DEPTH]
    normed, width = layer.input_layernorm(hidden), layer.self_attn.head_dim
    query, key = (
        project(normed)[0].unflatten(-1, (-1, width))
        for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    tables = mllm.decoder.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1])[None])
    rotated = apply_rotary_pos_emb(key.transpose(0, 1)[None], key.transpose(0, 1)[None], *tables)[1][0]
    unit = torch.nn.functional.normalize(rotated.transpose(0, 1).flatten(1)[visual], dim=-1)
    seen, heads = visual[-1] + 1, query.shape[1]
    score = dict.fromkeys(visual, 0.0)
    for head in range(heads):
        own = key[:seen, head * key.shape[1] // heads]
        weights = (own @ query[:seen, head].mean(0) / width**0.5).softmax(0)
        for row in visual:
            score[row] += float(weights[row]) / heads * float(hidden[0, row].norm())
    ranked = sorted(range(len(visual)), key=lambda one: -score[visual[one]])
    candidates = sorted(ranked[: int(pact.kept * len(visual))])
    apart = cosines(unit).clamp(min=0).tolist()
    density = {
        one: sum(exp(-((apart[one][two] / 2) ** 2)) if one != two else 1 for two in candidates)
        for one in candidates
    }
    centres: list[int] = []
    for one in sorted(candidates, key=lambda one: -density[one]):
        if all(apart[one][centre] > pact.cutoff for centre in centres):
            centres.append(one)
    members: dict[int, list[int]] = {centre: [] for centre in sorted(centres)}
    for one in range(len(visual)):
        nearest = min(centres, key=lambda centre: apart[one][centre] if centre != one else -1)
        if one in candidates or apart[one][nearest] <= pact.recovery * pact.cutoff:
            members[nearest].append(one)
    return members


@pytest.mark.parametrize("cutoff", [0.21, 0.4])
def test_the_official_form_is_the_rule_by_loops_over_the_stock_model(
    tiny: MLLM, pictures, cutoff, monkeypatch
):
    pact = PACT(cutoff=cutoff, adaptive=True)
    chosen = []
    select = pact.select
    noted = lambda view, keep: (chosen.append(select(view, keep)), chosen[-1])[1]  # noqa: E731
    monkeypatch.setattr(pact, "select", noted)
    with attach(tiny, pact) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:2], [QUESTION] * 2))
    for picture, record, found in zip(pictures, trace.samples, chosen, strict=False):
        members = expected(tiny, picture, pact)
        assert record.kept == {DEPTH: list(members)}
        assert record.entering == [144, *[len(members)] * 5]
        assert record.merged[DEPTH] == [len(own) > 1 for own in members.values()]
        joined = [(found.into == centre).nonzero()[:, 0].tolist() for centre in range(len(members))]
        assert joined == list(members.values())
    assert 2 < len(trace.samples[0].kept[DEPTH]) < 79  # 0.55 of 144


def test_the_ledger_has_the_products_of_the_rule(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], [QUESTION])
    with attach(tiny, PACT(), 20, match="tokens", count_flops=True) as trace, torch.no_grad():
        tiny.model(**inputs)
    (record,) = trace.samples
    assert record.entering == [144, *[20] * 5]
    attention, length = tiny.decoder.layers[DEPTH].self_attn, inputs["input_ids"].shape[1]
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    projected = sum(2 * length * part.weight.numel() for part in parts)
    visual = tiny.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
    scores = 2 * (int(visual[-1]) + 1) * attention.q_proj.weight.shape[0]
    width = attention.k_proj.weight.shape[0]
    distances = 2 * 79 * 79 * width + 2 * 144 * 20 * width
    means = 2 * 20 * 144 * tiny.decoder.config.hidden_size
    assert record.selection_flops == 2 * projected + scores + distances + means


def test_shares_and_cutoffs_out_of_range_are_refused():
    for wrong in ({"kept": 0}, {"kept": 1.1}, {"cutoff": -0.1}, {"recovery": -1}):
        with pytest.raises(ValueError, match="choose a share above 0, up to 1, and numbers of 0 or more"):
            PACT(**wrong)  # type: ignore[arg-type]
