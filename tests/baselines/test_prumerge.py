from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baselines.prumerge import PruMerge, PruMergePlus
from compress.attach.session import attach
from compress.base import VISION, View
from compress.models.loading import MLLM

BOTH = pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
ATTENTION = torch.tensor([0.1, 0.4, 0.2, 0.3])
KEYS = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.3]])  # 1 is most like 0, 3 is most like 1
FEATURES = torch.eye(4)


def view(tokens: int = 144, heads: int = 4, seed: int = 0, outliers: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, 8, generator=generator)
    scores = torch.rand(heads, 1 + tokens, generator=generator) * (not outliers)
    scores[:, 1 : 1 + outliers] += 9
    keys = torch.randn(tokens, heads, 3, generator=generator)
    return View(
        depth=VISION,
        hidden=hidden,
        visual=torch.empty(0, 4),
        text=torch.empty(0, 4),
        index=torch.arange(tokens),
        grid=(1, tokens),
        cls_token=hidden[:1],
        scores=lambda layer: {-1: scores}[layer],
        keys=lambda layer: {-1: keys}[layer],
    )


def test_a_centre_gains_its_neighbours_and_the_rest_is_one_token():
    merged = PruMerge(neighbours=1).fused(ATTENTION, KEYS, FEATURES, torch.tensor([1, 3]))
    expected = [[0.1, 1, 0, 0], [0, 0.4, 0, 1], [0.1, 0, 0.2, 0]]  # 3 gains 1, which is a centre itself
    torch.testing.assert_close(merged, torch.tensor(expected))


def test_as_in_the_paper_a_centre_is_averaged_with_dropped_neighbours():
    merged = PruMerge(merging="paper", neighbours=1).fused(ATTENTION, KEYS, FEATURES, torch.tensor([1, 3]))
    expected = [[0.1 / 0.5, 0.4 / 0.5, 0, 0], [0.1 / 0.4, 0, 0, 0.3 / 0.4], [0.1, 0, 0.2, 0]]
    torch.testing.assert_close(merged, torch.tensor(expected))


@pytest.mark.parametrize("merging", ["code", "paper"])
def test_fewer_patches_than_neighbours_are_enough(merging):
    method = PruMerge(merging=merging, neighbours=32)
    merged = method.fused(ATTENTION, KEYS, FEATURES, torch.tensor([1, 3, 0]))
    own = torch.tensor([0.4, 0.3, 0.1]) if merging == "paper" else torch.ones(3)
    total = own + 0.2 if merging == "paper" else torch.ones(3)
    torch.testing.assert_close(merged[:3, 2], 0.2 / total)  # all gain the only dropped one
    torch.testing.assert_close(merged[0, 1], own[0] / total[0])


def test_attention_is_that_of_one_wide_head():
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(4, 3, generator=generator), torch.randn(9, 4, 3, generator=generator)
    scores = (query * keys).sum(-1).T / 3**0.5  # [H, 1 + N], as the tower scales them
    wide = (keys.flatten(1) @ query.flatten() / 12**0.5).softmax(0)[1:]
    torch.testing.assert_close(PruMerge().attention(scores), wide)
    every = scores.softmax(-1).mean(0)[1:]
    torch.testing.assert_close(PruMerge(heads="all").attention(scores), every)


def test_it_keeps_what_the_last_layers_projections_say(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], ["how many ?"])
    with attach(tiny, PruMerge(), 21) as trace, torch.no_grad():
        tiny.model(**inputs)
        hidden = tiny.tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0]
        layer = tiny.tower_layers[-1]
        normed = layer.layer_norm1(hidden)
        query, keys = layer.self_attn.q_proj(normed[0]), layer.self_attn.k_proj(normed)
        attention = (keys @ query / 48**0.5).softmax(0)[1:]
    (record,) = trace.samples
    assert record.kept[VISION] == [*attention.sort(descending=True).indices[:20].tolist(), -1]
    assert all(record.merged[VISION]) and record.entering == [21] * 6


def test_outliers_lie_above_the_upper_fence_of_the_quartiles():
    assert PruMerge.ratio(torch.tensor([1.0, 2, 3, 4, 100])) == 0.2  # quartiles 2 and 4, fence 7
    assert PruMerge.ratio(torch.tensor([1.0, 2, 3, 4, 6.9])) == 0
    assert PruMerge.ratio(torch.tensor([-100.0, 2, 3, 4, 5])) == 0  # the lower tail does not count


@BOTH
@pytest.mark.parametrize("tokens", [144, 576])
def test_the_budget_is_exact(method, tokens: int):
    given = view(tokens)
    for keep in [*range(1, tokens, 1 if tokens < 200 else 41), tokens - 1]:
        selection = method().select(given, keep)
        assert selection.tokens is not None and selection.tokens.shape == (keep, 8)
        assert selection.index[-1] == -1 and len(selection.index.unique()) == keep


def test_a_single_token_is_the_attention_weighted_sum():
    given = view()
    selection = PruMerge().select(given, 1)
    expected = PruMerge().attention(given.scores(-1)) @ given.hidden
    torch.testing.assert_close(selection.tokens, expected[None])


def test_centres_stand_in_falling_order_of_attention():
    given = view()
    attention = PruMerge().attention(given.scores(-1))
    falling = PruMerge().select(given, 9)
    assert falling.index[:8].tolist() == attention.sort(descending=True).indices[:8].tolist()
    raster = PruMerge(order="raster").select(given, 9)
    assert raster.index.tolist() == [*sorted(falling.index[:8].tolist()), -1]
    assert raster.tokens is not None and falling.tokens is not None
    places = falling.index[:8].sort().indices
    torch.testing.assert_close(raster.tokens, falling.tokens[[*places.tolist(), 8]])


def test_adaptive_keeps_the_outliers_and_one_for_the_rest():
    index = PruMerge(adaptive=True).select(view(outliers=5), 0).index
    assert index.sort().values.tolist() == [-1, 0, 1, 2, 3, 4]
    flat = replace(view(), scores=lambda layer: torch.zeros(4, 145))
    assert PruMerge(adaptive=True).select(flat, 0).index.tolist() == [0, -1]


def test_plus_adds_every_so_manyth_patch_to_the_outliers_but_never_the_last():
    index = PruMergePlus(adaptive=True).select(view(tokens=37, outliers=3), 0).index
    assert sorted(index[:3].tolist()) == [0, 1, 2]
    assert index[3:].tolist() == [
        4,
        8,
        12,
        16,
        20,
        24,
        28,
        32,
        -1,
    ]  # every 37 // 3 // 3-th; 0 is there, 36 not


def test_where_every_patch_is_a_centre_there_is_no_rest():
    scores = torch.zeros(4, 10)
    scores[:, -2:] = 9  # two outliers of nine patches: every first other one but the last joins them
    selection = PruMergePlus(adaptive=True).select(replace(view(9), scores=lambda layer: scores), 0)
    assert selection.index.tolist() == [7, 8, 0, 1, 2, 3, 4, 5, 6]
    assert selection.tokens is not None and len(selection.tokens) == 9


def test_plus_spends_a_quarter_of_a_budget_on_attention_and_spreads_the_rest():
    given = view()
    attention = PruMerge().attention(given.scores(-1))
    index = PruMergePlus().select(given, 41).index[:-1]
    assert index[:10].tolist() == attention.sort(descending=True).indices[:10].tolist()
    assert (index[10:].diff() > 0).all() and index[10:].diff().max() <= 7 and index[-1] >= 137
    assert torch.equal(PruMergePlus(salient=1.0).select(given, 41).index, PruMerge().select(given, 41).index)


@BOTH
def test_adaptive_counts_are_each_images_own(tiny: MLLM, pictures, method):
    questions = ["how many ?"] * 4
    with attach(tiny, method(adaptive=True), 40) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures, questions))
        for picture in pictures:
            tiny.model(**tiny.prepare([picture], questions[:1]))
    assert trace.samples[:4] == trace.samples[4:]
    assert len({record.entering[0] for record in trace.samples}) > 1
    for record in trace.samples:
        assert record.entering == [len(record.kept[VISION])] * 6 and 2 <= record.entering[0] <= 144


def test_tiles_are_compressed_one_by_one():
    whole, crop = view(16, seed=1), view(48, seed=2)
    both = replace(
        whole,
        hidden=torch.cat([whole.hidden, crop.hidden]),
        index=torch.arange(64),
        crop=torch.tensor([0] * 16 + [1] * 48),
        cls_token=torch.cat([whole.hidden[:1], crop.hidden[:1]]),
        scores=lambda layer: torch.cat([part.scores(-1)[:, :1] for part in (whole, crop)]
            + [part.scores(-1)[:, 1:] for part in (whole, crop)], 1),
        keys=lambda layer: torch.cat([whole.keys(-1), crop.keys(-1)]),
    )  # fmt: skip
    for adaptive, keep in ((False, 20), (True, 0)):
        method = PruMerge(adaptive=adaptive)
        first, second = method.select(whole, keep // 4), method.select(crop, keep - keep // 4)
        moved = torch.where(second.index < 0, -1, 16 + second.index)
        selection = method.select(both, keep)
        assert torch.equal(selection.index, torch.cat([first.index, moved]))
        torch.testing.assert_close(selection.tokens, torch.cat([first.tokens, second.tokens]))


def test_a_tower_without_cls_is_refused():
    with pytest.raises(ValueError, match="prumerge needs a vision tower with a CLS token"):
        PruMerge().select(replace(view(), cls_token=None), 9)


@pytest.mark.parametrize("share", [-1, 2])
def test_shares_that_make_no_sense_are_refused(share: float):
    with pytest.raises(ValueError, match="salient="):
        PruMergePlus(salient=share)
