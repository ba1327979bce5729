from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.base import Scorer, View, scaled_layer, top_k


class Norm(Scorer):
    def score(self, view: View) -> Tensor:
        return view.hidden.norm(dim=-1)


def view(hidden: Tensor) -> View:
    tokens = len(hidden)
    return View(
        0, hidden, visual=hidden, text=hidden.new_empty(0, 2), index=torch.arange(tokens), grid=(1, tokens)
    )


def test_top_k_returns_ascending_indices_of_the_largest():
    assert top_k(torch.tensor([1.0, 9.0, 3.0, 7.0]), 2).tolist() == [1, 3]


def test_top_k_lets_the_lower_index_win_among_equals():
    assert top_k(torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]), 2).tolist() == [1, 2]
    assert top_k(torch.zeros(1000), 3).tolist() == [0, 1, 2]


def test_a_scorer_keeps_the_highest_scores():
    hidden = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 0.0], [2.0, 0.0]])
    assert Norm().select(view(hidden), 2).index.tolist() == [1, 3]


@pytest.mark.parametrize(("layers", "expected"), [(32, 2), (12, 1), (28, 2), (6, 1), (2, 1), (64, 4)])
def test_the_papers_layer_scales_with_depth(layers: int, expected: int):
    assert scaled_layer(2, layers) == expected


def test_a_missing_signal_says_so():
    with pytest.raises(ValueError, match="does not exist"):
        view(torch.zeros(3, 2)).cls(-2)
