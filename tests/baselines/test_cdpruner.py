from __future__ import annotations

import pytest
import torch

from baselines.cdpruner import CDPruner


def random(tokens: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, width, generator=generator), torch.rand(tokens, generator=generator) + 0.1


def test_every_token_enlarges_the_determinant_most():
    features, relevance = random(12, 8)
    unit = torch.nn.functional.normalize(features, dim=1).double()
    kernel = relevance.double()[:, None] * (unit @ unit.T) * relevance.double()
    chosen: list[int] = []
    for best in CDPruner.order(features, relevance, 6).tolist():
        volume = [
            -1 if one in chosen else kernel[[*chosen, one]][:, [*chosen, one]].det() for one in range(12)
        ]
        assert best == int(torch.tensor(volume).argmax())
        chosen.append(best)


def test_the_first_token_is_the_most_relevant():
    features, relevance = random(30, 8, 1)
    assert CDPruner.order(features, relevance, 1).tolist() == [int(relevance.argmax())]


@pytest.mark.parametrize("keep", [3, 8, 16, 30])
def test_more_tokens_than_dimensions_are_all_different(keep: int):
    features, relevance = random(30, 8, 2)
    assert len(set(CDPruner.order(features, relevance, keep).tolist())) == keep
    twice = torch.cat([features[:4]] * 8)
    assert len(set(CDPruner.order(twice, torch.ones(32), keep).tolist())) == keep


def test_relevance_is_the_mean_over_the_stretches_of_the_text():
    tokens, text = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    torch.testing.assert_close(CDPruner.likeness(tokens, text), torch.tensor([0.5, 0.5]))
    scaled = CDPruner.scaled(torch.tensor([1.0, 3.0, 2.0]))
    torch.testing.assert_close(scaled, torch.tensor([0.0, 1.0, 0.5]), atol=1e-5, rtol=0)
