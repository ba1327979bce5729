from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from baselines.pool import Pool, cells
from compress.attach.session import attach
from compress.base import View
from compress.models.loading import MLLM


def view(hidden: torch.Tensor, grid: tuple[int, int]) -> View:
    tokens = torch.arange(len(hidden))
    return View(depth=0, hidden=hidden, visual=hidden, text=hidden[:3], index=tokens, grid=grid)


@pytest.mark.parametrize(("grid", "window"), [(12, 2), (12, 3), (12, 6), (24, 2), (24, 3), (24, 12)])
def test_square_windows_are_ordinary_average_pooling(grid: int, window: int):
    hidden = torch.randn(grid * grid, 5, generator=torch.Generator().manual_seed(0))
    image = hidden.T.reshape(1, 5, grid, grid)
    expected = F.avg_pool2d(image, window)[0].flatten(1).T
    tokens = Pool().select(view(hidden, (grid, grid)), (grid // window) ** 2).tokens
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("grid", [(12, 12), (5, 9), (9, 5), (1, 7), (7, 1)], ids=str)
def test_every_budget_is_a_partition_into_rectangles_with_a_token_of_its_own(grid: tuple[int, int]):
    for keep in range(1, grid[0] * grid[1] + 1):
        into, middle = cells(*grid, keep)
        assert len(middle) == keep and torch.equal(into[middle], torch.arange(keep))
        counts = torch.bincount(into, minlength=keep)
        for cell in range(keep):
            places = (into.reshape(grid) == cell).nonzero()
            height, width = (places.amax(0) - places.amin(0) + 1).tolist()
            assert height * width == counts[cell]


@pytest.mark.parametrize("keep", [16, 32, 48, 50, 64, 100])
def test_cells_are_compact_and_of_similar_size(keep: int):
    into, _ = cells(12, 12, keep)
    for cell in range(keep):
        places = (into.reshape(12, 12) == cell).nonzero()
        sides = (places.amax(0) - places.amin(0) + 1).tolist()
        assert max(sides) - min(sides) <= 1 and max(sides) < 1.25 * (144 / keep) ** 0.5 + 1


def test_a_token_is_the_mean_of_its_cell_at_the_place_of_its_middle():
    hidden = torch.arange(9.0)[:, None]
    selection = Pool().select(view(hidden, (3, 3)), 1)
    assert selection.tokens is not None
    assert selection.index.tolist() == [4] and selection.tokens.tolist() == [[4.0]]
    selection = Pool().select(view(hidden[:8], (4, 2)), 2)
    assert selection.tokens is not None
    assert selection.index.tolist() == [3, 7] and selection.tokens.tolist() == [[1.5], [5.5]]


def test_the_decoder_gets_the_means_of_projected_tokens(tiny: MLLM, pictures):
    embedded = tiny.embed(pictures[0], "how many ?")
    image = embedded.embeds[embedded.visual].T.reshape(1, -1, 12, 12)
    entered: list[torch.Tensor] = []
    with attach(tiny, Pool(), 36) as trace, torch.no_grad():
        handle = tiny.decoder.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0][0]))
        try:
            tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
        finally:
            handle.remove()
    first = int(embedded.visual[0])
    torch.testing.assert_close(entered[0][first : first + 36], F.avg_pool2d(image, 2)[0].flatten(1).T)
    assert trace.samples[0].entering == [36] * 6 and all(trace.samples[0].merged[0])


def test_tokens_of_tiles_are_pooled_in_reading_order():
    hidden = torch.arange(6.0)[:, None]
    tiles = replace(view(hidden, (1, 3)), crop=torch.tensor([0, 0, 0, 1, 1, 1]))
    selection = Pool().select(tiles, 2)
    assert selection.tokens is not None
    assert selection.index.tolist() == [1, 4] and selection.tokens.tolist() == [[1.0], [4.0]]


def test_pooling_after_another_stage_is_refused():
    with pytest.raises(ValueError, match="pool needs all 3 x 3 tokens, not 6 of them"):
        Pool().select(view(torch.zeros(6, 2), (3, 3)), 2)
