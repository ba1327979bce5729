from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.base import INPUT, Scorer, View


@dataclass
class Random(Scorer):
    """A uniformly random subset: the control that every method must beat.

    Drawn from `seed` and from the sample's own pixels and prompt, so that a sample keeps the same tokens
    alone, in any batch and in every run, and different samples keep different ones.
    """

    seed: int = 0
    depth: int = INPUT

    def score(self, view: View) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed + view.seed()) % 2**63)
        return torch.rand(len(view.hidden), generator=generator).to(view.hidden.device)
