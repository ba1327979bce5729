"""EvoComp (2026): a small network, trained on searched labels, chooses visual tokens by the question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from compress.base import INPUT, Scorer, View
from compress.network import Compressor, Tokens


@dataclass
class EvoComp(Scorer):
    """Keep the tokens to which a trained compressor gives the highest probability (paper section 5).

    `compressor` is the folder that training wrote, or the network itself. The choice needs the aligned
    embeddings only, so `depth` may be the decoder's input (the paper's EvoComp@0) or any layer (EvoComp@2).
    Under an LLM in half precision the network's layers run in half precision too.
    """

    compressor: str | Compressor
    depth: int = INPUT

    def score(self, view: View) -> Tensor:
        place = view.visual.dtype, view.visual.device
        if place not in self._running:
            self._running[place] = self.network.running(*place)
        return self._running[place].score(Tokens(view.visual, view.text, view.before))

    def load(self) -> Self:
        _ = self.network
        return self

    @cached_property
    def _running(self) -> dict[tuple[torch.dtype, torch.device], Compressor]:
        return {}

    @cached_property
    def network(self) -> Compressor:
        """The compressor, loaded when it is first needed; ValueError if the folder holds none."""
        return (
            self.compressor if isinstance(self.compressor, Compressor) else Compressor.load(self.compressor)
        )
