from __future__ import annotations

import pytest
import torch

from baselines.divprune import DivPrune


def test_the_first_token_is_the_one_whose_nearest_neighbour_is_farthest():
    angle = torch.tensor([0.0, 0.1, 0.2, 1.2, 2.0])
    features = torch.stack([angle.cos(), angle.sin()], 1)
    assert DivPrune.order(features, 3).tolist() == [3, 0, 4]  # 0.8 away; then 1.2 and 0.8 from the nearest


@pytest.mark.parametrize("keep", [1, 4, 6])
def test_equal_tokens_are_chosen_once(keep: int):
    features = torch.eye(2).repeat(3, 1)
    order = DivPrune.order(features, keep)
    assert len(set(order.tolist())) == keep
    assert keep < 4 or set(order[:2].tolist() if keep == 2 else order.tolist()) >= {0, 1}


def test_length_does_not_matter():
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    longer = features * torch.linspace(0.1, 9, 20)[:, None]
    assert DivPrune.order(features, 9).tolist() == DivPrune.order(longer, 9).tolist()


def test_a_smaller_budget_is_a_prefix():
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    assert DivPrune.order(features, 7).tolist() == DivPrune.order(features, 20)[:7].tolist()
