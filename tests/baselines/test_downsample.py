"""The oracle is a loop over the tower's blocks on pixels and position embeddings that are resized by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.downsample import Downsample, grids
from compress.attach.session import attach
from compress.base import VISION
from compress.models.loading import MLLM

QUESTIONS = ["what color is the star ?", "how many ?"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(64, (8, 8)), (48, (6, 8)), (40, (5, 8)), (132, (11, 12)), (128, (8, 16)), (192, (12, 16)), (1, (1, 1))],
)
def test_the_grid_is_the_one_nearest_to_the_images_shape(keep: int, expected: tuple[int, int]):
    assert Downsample().resolution((12, 12) if keep in (64, 48, 40, 132, 1) else (24, 24), keep) == expected


def test_a_wide_image_stays_wide():
    assert Downsample().resolution((12, 24), 72) == (6, 12)
    assert Downsample().resolution((24, 12), 72) == (12, 6)


@pytest.mark.parametrize("grid", [(12, 12), (24, 24), (7, 10)], ids=str)
def test_no_grid_is_larger_than_the_image_or_stretched_more_than_twofold(grid: tuple[int, int]):
    for keep, (rows, columns) in grids(*grid).items():
        assert rows * columns == keep and rows <= grid[0] and columns <= grid[1]
        assert 0.5 <= (rows / grid[0]) / (columns / grid[1]) <= 2


@pytest.mark.parametrize(
    ("keep", "near"), [(143, "132 and 144"), (3, "2 and 4"), (5, "4 and 6"), (47, "45 and 48")]
)
def test_an_impossible_budget_names_the_nearest_possible_ones(tiny: MLLM, keep: int, near: str):
    with (
        pytest.raises(ValueError, match=f"keep={keep}: no grid.*nearest possible budgets are {near}$"),
        attach(tiny, Downsample(), keep),
    ):
        pass


@torch.no_grad()
def tower(mllm: MLLM, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features [rows * columns, C] of one image resized to a grid of patches."""
    embeddings, encoder = mllm.tower.embeddings, mllm.tower.encoder
    patch = embeddings.patch_embedding.kernel_size[0]
    small = F.interpolate(pixels[None], (grid[0] * patch, grid[1] * patch), mode="bicubic", antialias=True)
    patches = embeddings.patch_embedding(small)[0].flatten(1).T
    table = embeddings.position_embedding.weight
    side = mllm.grid[0]
    places = table[1:].T.reshape(1, -1, side, side)
    places = F.interpolate(places, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    hidden = torch.cat([embeddings.class_embedding[None] + table[:1], patches + places])
    hidden = mllm.tower.pre_layrnorm(hidden)[None]
    for block in encoder.layers[: mllm.tower_depth]:
        hidden = block(hidden, None)
    return hidden[0, 1:]


@pytest.mark.parametrize("keep", [48, 64, 9])
def test_the_projector_gets_the_towers_view_of_the_smaller_image(
    tiny: MLLM, pictures, keep: int, monkeypatch
):
    inputs = tiny.prepare(pictures[:2], QUESTIONS)
    seen, lengths = [], []
    project = tiny.projector.forward
    monkeypatch.setattr(tiny.projector, "forward", lambda rows: (seen.append(rows), project(rows))[1])
    handle = tiny.tower_layers[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    try:
        with attach(tiny, Downsample(), keep) as trace, torch.no_grad():
            tiny.model(**inputs)
    finally:
        handle.remove()
    found = [rows for rows in seen if rows.ndim == 2]
    assert lengths == [1 + keep]
    for record, pixels, rows in zip(trace.samples, inputs["pixel_values"], found, strict=True):
        assert record.entering == [keep] * tiny.layers and all(record.merged[VISION])
        expected = tower(tiny, pixels, Downsample().resolution((12, 12), keep))
        torch.testing.assert_close(rows, expected, atol=2e-5, rtol=1e-4)
