from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.globalcom2 import GlobalCom2
from compress.attach.session import attach
from compress.base import VISION, View
from compress.models.loading import MLLM

STITCHED = torch.tensor([[1, 2], [3, 4]]).repeat_interleave(4, 0).repeat_interleave(4, 1)  # 8 x 8 of 4 crops
TILES = torch.cat([torch.zeros(16, dtype=torch.long), STITCHED.flatten()])  # a thumbnail of 4 x 4 before them


def view(scores: Tensor, crop: Tensor | None = None) -> View:
    """A view at VISION with these scores [H, N] of CLS; its score for itself is 0."""
    hidden = torch.arange(scores.shape[1] * 2.0).view(-1, 2)
    whole = torch.cat([torch.zeros(len(scores), 1), scores], 1)
    return View(
        depth=VISION,
        hidden=hidden,
        visual=torch.empty(0, 4),
        text=torch.empty(0, 4),
        index=torch.arange(len(hidden)),
        grid=(4, 4) if crop is not None else (1, len(hidden)),
        crop=crop,
        cls_token=hidden[:1],
        cls=lambda layer: {-1: whole}[layer].softmax(-1)[:, 1:],
        scores=lambda layer: {-1: whole}[layer],
    )


def test_one_image_passes_its_best_on_in_falling_order():
    given = view(torch.tensor([[1.0, 3.0, -2.0, 4.0], [1.0, 3.0, -2.0, 0.0]]))  # means 1, 3, -2, 2
    selection = GlobalCom2().select(given, 3)
    assert selection.index.tolist() == [1, 3, 0]
    assert selection.reordered and selection.tokens is None
    raster = GlobalCom2(order="raster").select(given, 3)
    assert raster.index.tolist() == [0, 1, 3] and not raster.reordered


def test_scores_before_and_after_the_softmax_rank_differently():
    given = view(torch.tensor([[6.0, 4.0, 0.0], [-9.0, 4.0, 0.0]]))  # one head is sure of 0, the other not
    assert GlobalCom2().select(given, 1).index.tolist() == [1]
    given = view(torch.tensor([[6.0, 3.0, 0.0], [-9.0, -1.0, 0.0]]))
    assert GlobalCom2().select(given, 1).index.tolist() == [1]
    assert GlobalCom2(signal="attention").select(given, 1).index.tolist() == [0]


def test_the_decoder_reads_them_in_that_order(tiny: MLLM, pictures):
    with attach(tiny, GlobalCom2(), 20) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
    with attach(tiny, GlobalCom2(order="raster"), 20) as raster, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
    falling, ascending = (one.samples[0].kept[VISION] for one in (trace, raster))
    assert falling != ascending == sorted(falling)
    assert not any(trace.samples[0].merged[VISION])


def test_a_crop_keeps_the_more_the_more_the_thumbnail_scores_there():
    thumbnail = torch.zeros(4, 4)
    thumbnail[:2, 2:] = 5  # 20 in the upper right block
    scales = GlobalCom2(temperature=10.0).scales(thumbnail.flatten(), (2, 2), 0.25)
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0]).softmax(0)
    torch.testing.assert_close(scales, 0.25 * (1 + weight - 0.25))
    torch.testing.assert_close(scales.mean(), torch.tensor(0.25))
    assert GlobalCom2(temperature=1.0).scales(thumbnail.flatten(), (2, 2), 0.9).max() == 1


def test_the_thumbnail_joins_in_which_tokens_of_a_crop_stay():
    local, crop = torch.tensor([3.0, 4.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
    guided = GlobalCom2.guided(local, torch.tensor([8.0, 6.0, 2.0, 0.0]), crop)
    torch.testing.assert_close(guided, torch.tensor([0.6 + 0.8, 0.8 + 0.6, 0.0 + 1.0, 1.0 + 0.0]))


def test_the_thumbnail_is_enlarged_to_the_crops():
    corners = GlobalCom2.enlarged(torch.tensor([0.0, 1.0, 2.0, 3.0]), (4, 4)).view(4, 4)
    assert corners[0, 0] == 0 and corners[0, -1] == 1 and corners[-1, 0] == 2 and corners[-1, -1] == 3
    assert (corners.diff(dim=0) > 0).all() and (corners.diff(dim=1) > 0).all()


def test_tiles_share_the_budget_as_the_thumbnail_commands():
    scores = torch.rand(1, 80, generator=torch.Generator().manual_seed(0))
    scores[:, :16] = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 0, 0], [0, 0, 0, 0.0]]).view(1, 16)
    index = GlobalCom2(temperature=1.0).select(view(scores, TILES), 20).index
    kept = TILES[index].bincount(minlength=5).tolist()
    assert kept == [4, 3, 7, 3, 3] and index[:4].tolist() == [2, 3, 6, 7]
    assert (index[4:].diff() > 0).all()  # crops in raster order


def test_a_crop_that_is_half_padding_keeps_half():
    crop = torch.tensor([0] * 16 + [1] * 8 + [2] * 16 + [3] * 8)  # a column of three
    flat = torch.rand(1, 48, generator=torch.Generator().manual_seed(0))
    flat[:, :16] = 1
    index = GlobalCom2().select(view(flat, crop), 24).index
    assert crop[index].bincount().tolist() == [8, 4, 8, 4]


@pytest.mark.parametrize("order", ["score", "raster"])
def test_the_budget_of_an_image_in_tiles_is_exact(order):
    scores = torch.randn(3, 80, generator=torch.Generator().manual_seed(1))
    for keep in range(1, 80):
        index = GlobalCom2(order=order).select(view(scores, TILES), keep).index
        assert len(index) == len(index.unique()) == keep


def test_a_tower_without_cls_is_refused():
    hidden = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="globalcom2 needs a vision tower with a CLS token"):
        GlobalCom2().select(View(VISION, hidden, hidden, hidden, torch.arange(4), (2, 2)), 2)
