from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from baselines.crops import best_of_each, chosen_of_each, crop_of_cell, share_out, stitched
from baselines.divprune import DivPrune
from baselines.farthest import Farthest
from baselines.fastervlm import FasterVLM
from baselines.globalcom2 import GlobalCom2
from baselines.gprune import GPrune
from baselines.hired import HiRED
from baselines.holov import HoloV
from baselines.prumerge import PruMerge, PruMergePlus
from baselines.scope import SCOPE
from baselines.vispruner import VisPruner
from compress.attach.session import attach
from compress.base import INPUT, VISION, Selection, Selector, View
from compress.models.loading import MLLM


def test_shares_follow_what_is_wanted_and_add_up():
    wanted, room = torch.tensor([4.0, 2.0, 1.0, 1.0]), torch.tensor([50, 50, 50, 50])
    assert share_out(wanted, room, 16).tolist() == [8, 4, 2, 2]
    assert share_out(wanted, room, 1).tolist() == [1, 0, 0, 0]
    assert share_out(torch.tensor([8.6, 0.7, 0.7]), room[:3], 10).tolist() == [8, 1, 1]  # rounded to nearest
    assert share_out(wanted, room, 0).tolist() == [0, 0, 0, 0]


def test_what_does_not_fit_goes_to_the_others():
    room = torch.tensor([3, 10, 10])
    assert share_out(torch.tensor([9.0, 1.0, 1.0]), room, 11).tolist() == [3, 4, 4]
    assert share_out(torch.tensor([5.0, 0.0, 0.0]), room, 7).tolist() == [3, 2, 2]
    assert share_out(torch.tensor([5.0, 0.0, 0.0]), room, 23).tolist() == room.tolist()


@pytest.mark.parametrize("keep", range(61))
def test_no_share_falls_when_the_budget_rises(keep: int):
    wanted, room = torch.tensor([0.31, 0.2, 0.05, 0.44]), torch.tensor([20, 5, 20, 16])
    less, more = share_out(wanted, room, keep), share_out(wanted, room, keep + 1)
    assert less.sum() == keep and (less <= room).all() and (less <= more).all()


def test_every_part_keeps_its_best():
    scores = torch.tensor([1.0, 9.0, 5.0, 2.0, 3.0, 3.0])
    part = torch.tensor([0, 1, 0, 1, 2, 2])
    assert best_of_each(scores, part, torch.tensor([1, 2, 1])).tolist() == [1, 2, 3, 4]
    assert best_of_each(scores, part, torch.tensor([0, 0, 2])).tolist() == [4, 5]


def test_every_tile_chooses_among_its_own_rows():
    view = View(
        depth=VISION, hidden=torch.zeros(6, 2), visual=torch.empty(0, 2), text=torch.empty(0, 2),
        index=torch.arange(6), grid=(1, 3), crop=torch.tensor([1, 0, 1, 0, 1, 0]),
    )  # fmt: skip
    asked = []

    def last(rows: torch.Tensor, share: int) -> torch.Tensor:
        asked.append((rows.tolist(), share))
        return torch.arange(len(rows) - share, len(rows))

    assert chosen_of_each(view, 3, last).tolist() == [3, 4, 5]
    assert asked == [([1, 3, 5], 2), ([0, 2, 4], 1)]


def tiled(shape: tuple[int, int], height: int, width: int, newlines: bool) -> View:
    """A thumbnail of 4 x 4 and crops of 4 x 4, of whose grid the middle `height` x `width` is no padding."""
    crop = (
        torch.arange(1, shape[0] * shape[1] + 1).view(shape).repeat_interleave(4, 0).repeat_interleave(4, 1)
    )
    top, left = (len(crop) - height) // 2, (crop.shape[1] - width) // 2
    crop = crop[top : top + height, left : left + width]
    index = torch.arange(height)[:, None] * (width + newlines) + torch.arange(width)
    return View(
        depth=VISION,
        hidden=torch.zeros(16 + crop.numel(), 2),
        visual=torch.empty(0, 2),
        text=torch.empty(0, 2),
        index=torch.cat([torch.arange(16), 16 + index.flatten()]),
        grid=(4, 4),
        crop=torch.cat([torch.zeros(16, dtype=torch.long), crop.flatten()]),
    )


@pytest.mark.parametrize("newlines", [True, False])
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1), (1, 2), (2, 1)])
def test_the_shape_of_the_crops_is_read_from_their_tokens(shape: tuple[int, int], newlines: bool):
    rows, columns = 4 * shape[0], 4 * shape[1]
    assert stitched(tiled(shape, rows, columns, newlines)) == ((rows, columns), shape)
    assert stitched(tiled(shape, rows - 2, columns, newlines)) == ((rows - 2, columns), shape)
    if newlines or shape[1] > 1:
        assert stitched(tiled(shape, rows, columns - 2, newlines)) == ((rows, columns - 2), shape)


def test_the_last_crops_cover_what_is_left_of_the_thumbnail():
    assert crop_of_cell(2, (2, 2)).tolist() == [0, 1, 2, 3]
    assert crop_of_cell(4, (1, 3)).view(4, 4).tolist() == [[0, 1, 2, 2]] * 4


# On a model that sees images in tiles -----------------------------------------------------------------------

QUESTIONS = ["how many ?", "what shape ?", "what color is the star ?", "is there a red circle above ?"]
METHODS = [
    HiRED(),
    HiRED(crop_mapping="spatial"),
    GlobalCom2(),
    GlobalCom2(signal="attention", order="raster"),
    PruMerge(),
    PruMergePlus(order="raster"),
    GPrune(),
    Farthest(),
    FasterVLM(),
    VisPruner(),
    SCOPE(),
    HoloV(),
    DivPrune(),
]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Noise of different shapes: width, height."""
    rng = np.random.default_rng(2)
    shapes = [(48, 48), (60, 30), (20, 70), (26, 34)]
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in shapes]


@dataclass
class Looking(Selector):
    """Keeps all but one and remembers how the crops lie."""

    depth = VISION

    def select(self, view: View, keep: int) -> Selection:
        self.seen = stitched(view)
        return Selection(torch.arange(keep))


def test_the_shape_of_the_crops_is_the_models(tiny_next: MLLM, images):
    for image in images:
        inputs, method = tiny_next.prepare([image], QUESTIONS[:1]), Looking()
        with attach(tiny_next, method, 30), torch.no_grad():
            tiny_next.model(**inputs)
        pinpoints = tiny_next.model.config.image_grid_pinpoints
        (rows, columns), shape = method.seen
        assert shape == get_anyres_image_grid_shape(image.size[::-1], pinpoints, 24)
        (picture,) = tiny_next.pictures(inputs)
        assert rows == (picture.tile < 0).sum() and rows * columns == (picture.tile > 0).sum()


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_budgets_are_exact_for_images_in_tiles(tiny_next: MLLM, images, method: Selector):
    inputs = tiny_next.prepare(images, QUESTIONS)
    pictures = tiny_next.pictures(inputs)
    for keep in (1, 2, 40, min(map(len, pictures)) - 1):
        with attach(tiny_next, method, keep) as trace, torch.no_grad():
            tiny_next.model(**inputs)
        for record, picture in zip(trace.samples, pictures, strict=True):
            there = int((picture.tile >= 0).sum()) if method.depth == VISION else len(picture)
            assert record.entering == [min(keep, there)] * 6
            places = [place for place in record.kept[method.depth] if place >= 0]
            assert len(set(places)) == len(places)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_batch_of_images_in_tiles_equals_its_samples(tiny_next: MLLM, images, method: Selector):
    with attach(tiny_next, method, 40) as trace, torch.no_grad():
        together = tiny_next.model(**tiny_next.prepare(images, QUESTIONS)).logits[:, -1]
        alone = [
            tiny_next.model(**tiny_next.prepare([image], [question])).logits[0, -1]
            for image, question in zip(images, QUESTIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=3e-5, rtol=1e-5)
    assert trace.samples[:4] == trace.samples[4:]


def test_every_tile_is_read_by_its_own_attention(tiny_next: MLLM, images):
    """Late attention of the model's own tower, tile by tile, says what HiRED keeps of each tile."""
    inputs = tiny_next.prepare(images[:1], QUESTIONS[:1])
    with attach(tiny_next, HiRED(), 60) as trace, torch.no_grad():
        tiny_next.model(**inputs)
    (picture,) = tiny_next.pictures(inputs)
    tower, layer = tiny_next.tower, tiny_next.tower_layers[-2]
    with torch.no_grad():
        hidden = tower(inputs["pixel_values"].flatten(0, 1), output_hidden_states=True).hidden_states[-3]
        normed = layer.layer_norm1(hidden)
        query, keys = (
            each(normed).unflatten(-1, (4, 12)) for each in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        attention = (query[:, :1] * keys).sum(-1).mul(12**-0.5).softmax(1)[:, 1:].sum(-1)  # [tiles, patches]
    kept = torch.tensor(trace.samples[0].kept[VISION])
    for tile in range(picture.tiles):
        mine = kept[picture.tile[kept] == tile]
        worth = attention[tile, picture.patch[picture.tile == tile]]
        threshold = worth.sort(descending=True).values[len(mine) - 1] if len(mine) else torch.inf
        assert (attention[tile, picture.patch[mine]] >= threshold - 1e-6).all()


def test_g_prune_keeps_the_newlines(tiny_next: MLLM, images):
    inputs = tiny_next.prepare(images, QUESTIONS)
    with attach(tiny_next, GPrune(), 60) as trace, torch.no_grad():
        tiny_next.model(**inputs)
    for record, picture in zip(trace.samples, tiny_next.pictures(inputs), strict=True):
        assert (picture.tile[record.kept[INPUT]] < 0).sum() == (picture.tile < 0).sum()


def test_scores_of_every_tile_start_with_its_own_cls(tiny_next: MLLM, images):
    class Reading(Selector):
        depth, tower_layers = VISION, (-1,)

        def select(self, view: View, keep: int) -> Selection:
            assert view.crop is not None and view.cls_token is not None
            scores, tiles = view.scores(-1), len(view.cls_token)
            assert scores.shape == (4, tiles + len(view.hidden))
            for tile in range(tiles):  # all patches of the thumbnail are in the view, not all of the crops
                own, mine = scores[:, tile], scores[:, tiles:][:, view.crop == tile]
                weights = torch.cat([own[:, None], mine], 1).softmax(1)[:, 1:]
                expected = view.cls(-1)[:, view.crop == tile]
                if mine.shape[1] == 36:
                    torch.testing.assert_close(weights, expected)
                assert (weights >= expected - 1e-6).all()
            return Selection(torch.arange(keep))

    with attach(tiny_next, Reading(), 30), torch.no_grad():
        tiny_next.model(**tiny_next.prepare(images, QUESTIONS))
