"""EvoComp (2026): a small network, trained on searched labels, selects visual tokens for the question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from compress.base import INPUT, Scorer, Traits, View
from compress.compressor.network import Compressor, Tokens, compressor_folder


@dataclass
class Learned(Scorer):
    """A method that scores visual tokens with a trained compressor.

    `compressor` is a training folder, a name on the hub, or the network itself. If the LLM runs in half
    precision, the layers of the compressor do so too.
    """

    compressor: str | Compressor
    reads_text = True

    def score(self, view: View) -> Tensor:
        place = view.visual.dtype, view.visual.device
        if place not in self._running:
            self._running = {place: self.network.running(*place)}  # the last one may have moved
        return self._running[place].score(Tokens(view.visual, view.text, view.before))

    def choices(self, model: Traits) -> tuple[str, ...]:
        width = self.network.width
        if width == model.width:
            return ()
        return (f"transferred: embeddings of width {model.width} are pooled to the compressor's {width}",)

    def load(self) -> Self:
        if isinstance(self.compressor, Compressor):
            return self
        local = replace(self, compressor=str(compressor_folder(self.compressor)))
        _ = local.network
        return local

    @cached_property
    def _running(self) -> dict[tuple[torch.dtype, torch.device], Compressor]:
        return {}

    @cached_property
    def network(self) -> Compressor:
        """The compressor, loaded on first use. ValueError if it is not found or unreadable."""
        if isinstance(self.compressor, Compressor):
            return self.compressor
        return Compressor.from_pretrained(self.compressor)


@dataclass
class EvoComp(Learned):
    """Keep the tokens with the highest probability under a trained compressor (paper 3.3 and 4.1).

    The compressor reads only the aligned embeddings, so `depth` may be the decoder's input (the paper's
    EvoComp@0) or any layer (EvoComp@2).
    """

    depth: int = INPUT
