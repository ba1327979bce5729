from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.base import INPUT, Scorer, View


@dataclass
class Random(Scorer):
    """A uniformly random subset: the control that every method must beat.

    Drawn from `seed` and from the sample's own pixels and prompt, so that a sample keeps the same tokens in
    any batch and in every run, and different samples keep different ones. An evaluation averages over `draws`
    subsets of each sample, with consecutive seeds from `seed` on; `attach` uses the first.
    """

    seed: int = 0
    depth: int = INPUT
    draws: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 1000:
            raise ValueError(f"draws={self.draws}: choose between 1 and 1000")

    def drawn(self, number: int) -> Random:
        return replace(self, seed=self.seed + number)

    def score(self, view: View) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed + view.seed()) % 2**63)
        return torch.rand(len(view.hidden), generator=generator).to(view.hidden.device)
