"""What a decoder adds to visual tokens behind its first layers goes with the tokens that stay."""

from __future__ import annotations

import torch

from compress.attach.prefill import _of_selection
from compress.base import Selection

ADDED = torch.tensor([[1.0], [2.0], [4.0], [8.0]])


def added(selection: Selection) -> list[float]:
    return _of_selection(selection, ADDED).flatten().tolist()


def test_a_token_takes_what_is_added_to_it_or_to_its_representative() -> None:
    assert added(Selection(torch.tensor([0, 3]))) == [1, 8]


def test_a_token_of_the_whole_image_takes_the_mean_of_all() -> None:
    assert added(Selection(torch.tensor([2, -1]), torch.zeros(2, 1))) == [4, 3.75]


def test_a_merged_token_takes_the_mean_of_those_that_joined_it() -> None:
    merged = Selection(torch.tensor([0, 3]), torch.zeros(2, 1), into=torch.tensor([0, 0, -1, 1]))
    assert added(merged) == [1.5, 8]
