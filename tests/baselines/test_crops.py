from __future__ import annotations

import pytest
import torch

from baselines.crops import best_of_each, crop_of_cell, crop_shape, share_out


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


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 3), (3, 1), (1, 2)])
def test_the_shape_of_the_crops_is_read_from_their_tokens(rows: int, columns: int):
    stitched = torch.arange(1, rows * columns + 1).view(rows, columns)
    stitched = stitched.repeat_interleave(4, 0).repeat_interleave(5, 1)
    crop = torch.cat([torch.zeros(16, dtype=torch.long), stitched.flatten()])
    assert crop_shape(crop, (4 * rows, 5 * columns)) == (rows, columns)


def test_the_last_crops_cover_what_is_left_of_the_thumbnail():
    assert crop_of_cell(2, (2, 2)).tolist() == [0, 1, 2, 3]
    assert crop_of_cell(4, (1, 3)).view(4, 4).tolist() == [[0, 1, 2, 2]] * 4
