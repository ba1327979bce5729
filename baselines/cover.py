from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.base import Selection, Selector, View
from compress.coverage import cover, likeness


@dataclass
class Cover(Selector):
    """Greedy cover of feature space: the kept tokens are like as many tokens as possible, whatever is asked.

    The control for EvoComp+, with every token equally relevant. Reads the aligned embeddings, acts at the
    decoder's input.
    """

    def select(self, view: View, keep: int) -> Selection:
        alike = likeness(view.visual)
        return Selection(cover(torch.ones_like(alike[0]), alike, keep).sort().values)
