from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.base import Selection, Selector, View


@dataclass
class KeepAll(Selector):
    """Keep every token and ignore the budget: the uncompressed model, the first row of every table."""

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(len(view.hidden), device=view.hidden.device))
