"""Runners of a decoder at fixed shapes: the interface, and the host's part of the work.

Rows are embeddings, since visual tokens have no ids; a logits vector predicts the next token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from bench.edge.bundle import BundleSettings
from bench.edge.precision import MASKED, Floats, Ints
from bench.edge.protocol import Chunk


class Runner(ABC):
    """A decoder with a cache of fixed length, for one sample at a time."""

    cache_bytes: int

    @abstractmethod
    def prefill(self, rows: Floats, positions: Ints) -> Floats:
        """Clear the cache and read a prompt [n, H] at `positions` [n]; return logits [V]."""

    @abstractmethod
    def decode(self, row: Floats, position: int) -> Floats:
        """Read one more row [H]; return logits [V]."""


class Backend(Interface):
    """A runtime with all parts of the chain, from pixels to logits."""

    padded: bool  # whether the prompt is padded to whole chunks
    gaps: bool  # whether rows may stand at positions with gaps between them

    @property
    def label(self) -> str:
        """The actual precision of the decoder, as in W4A8KV8."""

    def vision(self, pixels: Floats) -> Floats:
        """Visual tokens [N, H] of an image [1, 3, height, width]; float."""

    def score(self, rows: Floats, present: Floats) -> Floats:
        """Retention logits [L] of a prompt [L, H] with a mask `present` [L] (1, or 0 for padding); float."""

    def runner(self, context: int) -> Runner:
        """The decoder with a cache of `context` rows; every call returns the same one."""


class ChunkedRunner(Runner):
    """The host of a graph that takes chunk, cache and masks, and returns logits and the chunk's cache rows.

    The graph never writes to the cache: the host appends the new rows of real tokens to it. Padding therefore
    costs as much as on a phone, and does not remain in the cache.
    """

    def __init__(self, settings: BundleSettings, context: int):
        self.protocol, self.context, self.cache = settings.protocol, context, settings.empty_cache(context)
        self.cache_bytes = sum(part.nbytes for part in self.cache.values())
        self.filled = 0

    @abstractmethod
    def step(self, rows: int, feeds: dict[str, NDArray[Any]]) -> tuple[Floats, list[NDArray[Any]]]:
        """Run the graph of `rows` rows; return logits [V] of its last row, and new rows per cache part."""

    def prefill(self, rows: Floats, positions: Ints) -> Floats:
        self.filled = 0
        chunks = self.protocol.layout(len(rows))
        return [self._read(self.protocol.chunk, one, rows, positions) for one in chunks][-1]

    def decode(self, row: Floats, position: int) -> Floats:
        return self._read(1, Chunk(0, 0, 1), row[None], np.array([position]))

    def _read(self, size: int, chunk: Chunk, rows: Floats, positions: Ints) -> Floats:
        real = slice(chunk.start, chunk.stop)
        embeds = np.zeros((1, size, rows.shape[1]), np.float32)
        embeds[0, chunk.pad :] = rows[real]
        places = np.zeros((1, size), np.int64)
        places[0, chunk.pad :] = positions[real]
        hidden = np.arange(size)[:, None] < np.arange(size)  # masks later rows
        hidden |= np.arange(size) < chunk.pad
        past = np.arange(self.context)[None] >= self.filled
        feeds: dict[str, NDArray[Any]] = {
            "embeds": embeds,
            "positions": places,
            "mask": _added(hidden),
            "past_mask": _added(past),
        }
        logits, new = self.step(size, feeds | self.cache)
        end = self.filled + size - chunk.pad
        for store, fresh in zip(self.cache.values(), new, strict=True):
            store[:, :, self.filled : end] = fresh[:, :, chunk.pad :]
        self.filled = end
        return logits


def _added(hidden: NDArray[np.bool_]) -> Floats:
    """The values added to scores to mask everything `hidden`."""
    return np.where(hidden, np.float32(MASKED), np.float32(0))
