"""The same chain in torch, with the same quantised weights: the reference for a runtime's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from bench.edge.bundle import BundleSettings
from bench.edge.decoder import FixedDecoder
from bench.edge.parts import FixedCompressor, FixedVision
from bench.edge.precision import Floats
from bench.edge.runner import ChunkedRunner


@dataclass
class TorchBackend:
    """Eager torch; int8 activations are floats rounded to int8 levels."""

    settings: BundleSettings
    decoder: FixedDecoder
    parts: tuple[FixedVision, FixedCompressor]
    runners: dict[int, TorchRunner] = field(default_factory=dict)
    padded = gaps = True

    @property
    def label(self) -> str:
        return self.decoder.precision.label

    @torch.inference_mode()
    def vision(self, pixels: Floats) -> Floats:
        visual: Floats = self.parts[0](torch.from_numpy(pixels)).numpy()
        return visual

    @torch.inference_mode()
    def score(self, rows: Floats, present: Floats) -> Floats:
        logits: Floats = self.parts[1](torch.from_numpy(rows), torch.from_numpy(present)).numpy()
        return logits

    def runner(self, context: int) -> TorchRunner:
        if context not in self.runners:
            self.runners[context] = TorchRunner(self.settings, self.decoder, context)
        return self.runners[context]


class TorchRunner(ChunkedRunner):
    """The fixed-shape decoder without any runtime."""

    def __init__(self, settings: BundleSettings, decoder: FixedDecoder, context: int):
        super().__init__(settings, context)
        self.decoder = decoder

    @torch.inference_mode()
    def step(self, rows: int, feeds: dict[str, NDArray[Any]]) -> tuple[Floats, list[NDArray[Any]]]:
        names = ("embeds", "positions", "mask", "past_mask", *self.cache)
        logits, *new = self.decoder(*(torch.from_numpy(feeds[name]) for name in names))
        return logits[0].numpy(), [part.numpy() for part in new]
