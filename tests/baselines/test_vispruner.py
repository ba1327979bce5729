from __future__ import annotations

import pytest
import torch

from baselines.vispruner import VisPruner


def tile(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(36, generator=generator), torch.randn(36, 8, generator=generator)


@pytest.mark.parametrize("important", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("keep", [1, 2, 3, 17, 34, 35])
def test_every_budget_is_met_whether_the_others_are_odd_or_even(keep: int, important: float):
    attention, features = tile()
    best, diverse = VisPruner(important).split(attention, features, keep)
    together = torch.cat([best, diverse]).tolist()
    assert len(set(together)) == len(together) == keep
    assert best.tolist() == attention.argsort(descending=True)[: int(keep * important)].tolist()


def test_of_two_equal_patches_the_one_with_less_attention_does_not_outlive_both():
    attention = torch.tensor([0.4, 0.3, 0.2, 0.1])
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    best, diverse = VisPruner(0.0).split(attention, features, 3)
    assert not len(best) and sorted(diverse.tolist()) == [1, 2, 3]  # 0 is most like one in between


@pytest.mark.parametrize("important", [-0.1, 1.1])
def test_shares_that_make_no_sense_are_refused(important: float):
    with pytest.raises(ValueError, match="important="):
        VisPruner(important)
