from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from compress.base import Selection, Selector, View


@dataclass
class Farthest(Selector):
    """Greedy farthest-point sampling: spread the kept tokens over feature space, without the prompt.

    The control for diversity. Reads the aligned embeddings, acts at the decoder's input. Starts at the most
    central token, then repeatedly adds the token least similar, by cosine, to the selected ones.
    """

    def select(self, view: View, keep: int) -> Selection:
        unit = F.normalize(view.visual.float(), dim=-1)  # [N, D]
        chosen = [(unit @ unit.mean(0)).argmax(keepdim=True)]  # [1]: a number would synchronise the GPU
        nearest = torch.full_like(unit[:, 0], -1)  # similarity to the chosen set
        while len(chosen) < keep:
            nearest = torch.maximum(nearest, unit @ unit[chosen[-1]][0])
            nearest[chosen[-1]] = torch.inf  # never twice, even among equals
            chosen.append(nearest.argmin(keepdim=True))
        return Selection(torch.cat(chosen).sort().values)
