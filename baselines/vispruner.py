from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import chosen_of_each
from compress.base import ClsSelector, Selection, Traits, View

ROUND = 8  # most patches that are pruned per round


@dataclass
class VisPruner(ClsSelector):
    """Keep the patches with the most attention from CLS, and a diverse subset of the others.

    "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs" (Zhang et al.,
    ICCV 2025, arXiv 2412.01818). Reads CLS attention, mean over heads, of the tower layer whose output the
    projector reads, and the tower's features; prunes between tower and projector; positions are contiguous.
    `important` is the share of the budget that is selected by attention. The others are ordered by attention
    and pruned in rounds: every second patch is compared with the patches in between, and the eight patches
    most similar to one of these are pruned. All tiles of an image keep equally many patches.

    Departure: the code fails if the number of others is odd; here one more of them is compared.
    """

    important: float = 0.5
    layer: int = -2

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise ValueError(f"important={self.important}: choose a share of the budget from 0 to 1")

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tiles share the budget equally",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        attention = self.attended(view, self.layer).mean(0)

        def choose(rows: Tensor, share: int) -> Tensor:
            return torch.cat(self.split(attention[rows], view.hidden[rows], share))

        return Selection(chosen_of_each(view, keep, choose))

    def split(self, attention: Tensor, features: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Return the important and the diverse patches of a tile, `keep` together.

        The important ones are sorted by falling attention [N]; the diverse ones, by features [N, C], are in
        the order of the last round.
        """
        order = attention.sort(descending=True, stable=True).indices
        important = int(keep * self.important)
        diverse, others = keep - important, order[important:]
        unit = F.normalize(features.float(), dim=-1)
        while len(others) > diverse > 0:
            compared, between = others[::2], others[1::2]
            alike = (unit[compared] @ unit[between].T).amax(1)
            leaving = min(ROUND, len(others) - diverse, len(compared))
            stays = alike.sort(descending=True, stable=True).indices[leaving:]
            others = torch.cat([compared[stays], between])
        return order[:important], others[:diverse]
