from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.base import Selection, Selector, View
from compress.coverage import cover, likeness


@dataclass
class Cover(Selector):
    """Greedy cover of feature space by tokens similar to as many others as possible, without the prompt.

    The control for EvoComp+, with the same relevance for every token. Reads the aligned embeddings, acts at
    the decoder's input.
    """

    def select(self, view: View, keep: int) -> Selection:
        alike = likeness(view.visual)
        return Selection(cover(torch.ones_like(alike[0]), alike, keep).sort().values)
