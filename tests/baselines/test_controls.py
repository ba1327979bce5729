from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baselines.cover import Cover
from baselines.farthest import Farthest
from baselines.grid import Grid
from baselines.lattices import lattice
from baselines.none import KeepAll
from baselines.random import Random
from compress.attach.session import attach
from compress.base import Selection, View
from compress.models.loading import MLLM


def view(seed: int = 0, tokens: int = 144) -> View:
    hidden = torch.zeros(tokens, 4)
    return View(
        depth=0,
        hidden=hidden,
        visual=hidden,
        text=hidden[:3],
        index=torch.arange(tokens),
        grid=(12, 12),
        seed=lambda: seed,
    )


def kept(selection: Selection) -> list[int]:
    return selection.index.tolist()


def test_none_keeps_everything_whatever_the_budget(tiny: MLLM, pictures):
    with attach(tiny, KeepAll(), 7) as trace:
        tiny.answer(pictures[:1], ["how many ?"], max_new_tokens=1)
    assert trace.samples[0].entering == [144] * 6


def test_random_differs_between_samples_and_seeds_but_not_between_runs():
    assert kept(Random().select(view(1), 16)) == kept(Random().select(view(1), 16))
    assert kept(Random().select(view(1), 16)) != kept(Random().select(view(2), 16))
    assert kept(Random(seed=1).select(view(1), 16)) != kept(Random(seed=0).select(view(1), 16))


def test_random_is_uniform():
    counts = torch.zeros(144)
    for seed in range(2000):
        counts[Random().select(view(seed), 36).index] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.05  # five standard deviations


@pytest.mark.parametrize("keep", range(1, 145))
def test_grid_is_exact_for_every_budget(keep: int):
    cells = lattice(12, 12, keep)
    assert len(cells) == keep and cells == sorted(set(cells)) and set(cells) <= set(range(144))


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (5, 9), (9, 5), (1, 7), (7, 1)])
def test_grid_is_exact_for_every_shape(rows: int, columns: int):
    for keep in range(1, rows * columns + 1):
        cells = lattice(rows, columns, keep)
        assert (
            len(cells) == keep == len(set(cells)) and max(cells) < rows * columns and cells == sorted(cells)
        )


def test_a_full_lattice_is_evenly_spaced():
    assert lattice(12, 12, 16) == [12 * row + column for row in (1, 4, 7, 10) for column in (1, 4, 7, 10)]
    assert lattice(4, 4, 4) == [5, 7, 13, 15]


@pytest.mark.parametrize("keep", [9, 16, 20, 32, 48, 64])
def test_grid_leaves_no_large_hole(keep: int):
    """Every cell is near a kept one: within 1.25 of the spacing that `keep` tokens have on the image."""
    place = torch.tensor([[cell // 12, cell % 12] for cell in range(144)], dtype=torch.float)
    distance = torch.cdist(place, place[lattice(12, 12, keep)]).amin(1)
    assert distance.max() <= 1.25 * (144 / keep) ** 0.5


def test_grid_after_another_stage_is_refused():
    with pytest.raises(ValueError, match="needs all 12 x 12 tokens, not 100"):
        Grid().select(view(tokens=100), 16)


def test_farthest_starts_in_the_middle_and_spreads_by_angle():
    degrees = torch.tensor([0.0, 30.0, 70.0, 31.0, 32.0])
    rays = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)
    given = replace(view(tokens=5), visual=rays * torch.tensor([[1.0], [9.0], [0.1], [2.0], [3.0]]))
    assert kept(Farthest().select(given, 1)) == [4]  # the mean lies at 32.5 degrees
    assert kept(Farthest().select(given, 2)) == [2, 4]
    assert kept(Farthest().select(given, 3)) == [0, 2, 4]


def test_farthest_never_takes_a_token_twice_even_among_equals():
    assert kept(Farthest().select(replace(view(), visual=torch.ones(144, 4)), 143)) == list(range(143))
    assert kept(Farthest().select(view(), 3)) == [0, 1, 2]  # no direction at all


def test_cover_takes_the_largest_crowd_first_then_the_next():
    crowds = torch.eye(3)[torch.tensor([0, 1, 1, 1, 2, 2])]
    given = replace(view(tokens=6), visual=crowds)
    assert [kept(Cover().select(given, keep)) for keep in (1, 2, 3)] == [[1], [1, 4], [0, 1, 4]]


def test_grid_takes_even_steps_through_an_image_in_tiles(tiny_next: MLLM, pictures):
    with attach(tiny_next, Grid(), 24) as trace, torch.no_grad():
        tiny_next.model(**tiny_next.prepare(pictures[:1], ["how many ?"]))
    assert trace.samples[0].kept[0] == list(range(4, 192, 8))
