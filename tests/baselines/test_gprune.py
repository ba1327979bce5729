from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.gprune import GPrune
from compress.base import INPUT, View


def view(features: Tensor, crop: Tensor | None = None) -> View:
    return View(
        depth=INPUT,
        hidden=features,
        visual=features,
        text=features[:1],
        index=torch.arange(len(features)),
        grid=(1, len(features)),
        crop=crop,
    )


def test_equals_share_what_one_of_a_kind_has_to_itself():
    """Three equal tokens pass their norm 1 round among themselves; it is divided by their three links."""
    features = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]])
    torch.testing.assert_close(GPrune().importance(features), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1, 2]))
    assert GPrune().select(view(features), 3).index.tolist() == [0, 3, 4]  # of equals, the first


def test_information_flows_along_the_links_as_often_as_asked():
    """At a high temperature links weigh alike: 0 - 1 - 2 is a chain, 0 and 2 are not similar enough."""
    features = torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]])
    flow = torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]])
    for iterations in (0, 1, 4):
        expected = features.norm(dim=1) @ torch.linalg.matrix_power(flow, iterations)
        found = GPrune(temperature=1e6, iterations=iterations).importance(features)
        torch.testing.assert_close(found, expected / torch.tensor([2, 3, 2]))


def test_the_threshold_decides_who_is_linked():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # cosine 0.6
    assert GPrune(similarity=0.59).importance(features)[0] < 0.9
    assert GPrune(similarity=0.61).importance(features).tolist() == [1.0, 1.0]


def test_a_token_without_direction_is_no_error():
    scores = GPrune().importance(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    assert scores.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("keep", [1, 2, 20, 79])
def test_thumbnail_and_crops_are_two_graphs_that_lose_the_same_share(keep: int):
    features = torch.randn(80, 8, generator=torch.Generator().manual_seed(0))
    crop = (torch.arange(80) // 16).clamp(max=4)
    index = GPrune().select(view(features, crop), keep).index
    assert len(index) == keep and (index.diff() > 0).all()
    if keep == 20:
        assert (index < 16).sum() == 4
        assert index[:4].tolist() == GPrune().select(view(features[:16]), 4).index.tolist()
        assert (index[4:] - 16).tolist() == GPrune().select(view(features[16:]), 16).index.tolist()


@pytest.mark.parametrize(("keep", "stay"), [(1, 0), (5, 2), (8, 4), (40, 4), (83, 4)])
def test_newlines_stay_but_take_half_of_the_budget_at_most(keep: int, stay: int):
    features = torch.randn(84, 8, generator=torch.Generator().manual_seed(0))
    crop = torch.cat([torch.zeros(16), torch.cat([torch.ones(16), -torch.ones(1)]).repeat(4)]).long()
    index = GPrune().select(view(features, crop), keep).index
    assert len(index) == keep and (crop[index] < 0).sum() == stay
    rest = features[crop >= 0]
    without = GPrune().select(view(rest, crop[crop >= 0]), keep - stay).index
    assert torch.equal(features[index[crop[index] >= 0]], rest[without])
