from __future__ import annotations

import torch

from baselines.scope import SCOPE
from compress.coverage import cover, likeness


def test_attention_weighs_what_a_patch_covers():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    even, uneven = torch.ones(4), torch.tensor([0.1, 0.1, 0.1, 0.7])
    assert SCOPE().order(even, features, 2).tolist() == [0, 3]
    assert SCOPE().order(uneven, features, 2).tolist() == [3, 0]  # 1 * 0.7 against 3 * 0.1
    assert SCOPE(alpha=0.0).order(uneven, features, 2).tolist() == [0, 3]


def test_without_attention_it_is_the_control_for_cover():
    features = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    alike = likeness(features)
    expected = cover(torch.ones(30), alike, 12)
    assert SCOPE(alpha=0.0).order(torch.rand(30), features, 12).tolist() == expected.tolist()
