"""The phone protocol (paper 4.2, Appendix C): fixed shapes, chunks padded on the left, two context lengths.

An NPU runs compiled graphs of one shape each. The prompt goes through a graph of `chunk` rows in as many
calls as needed, with its first chunk padded on the left; every further token goes through a graph of one row.
The cache has a fixed number of rows: `contexts` without and with compression. The four graphs share one file
of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAPER_TOKENS = 576  # visual tokens of the paper's model on a phone
PAPER_TEXT = 64  # longest text that fits the paper's times: with 64 kept tokens it is one chunk


@dataclass(frozen=True)
class Chunk:
    """Rows [start, stop) of the prompt after `pad` rows of padding."""

    pad: int
    start: int
    stop: int


@dataclass(frozen=True)
class Protocol:
    """Rows per prefill call, and rows of the cache without and with compression."""

    chunk: int = 128
    contexts: tuple[int, ...] = (1024, 256)

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"--chunk {self.chunk}: a chunk has at least 1 row")
        if len(self.contexts) != 2 or min(self.contexts) < self.chunk:
            told = ",".join(map(str, self.contexts))
            raise ValueError(
                f"--contexts {told}: give two lengths, without and with compression, of at least one chunk "
                f"({self.chunk}) each"
            )

    @classmethod
    def scaled(cls, tokens: int, chunk: int | None = None, contexts: Sequence[int] = ()) -> Protocol:
        """The paper's shapes, scaled from 576 to `tokens` visual tokens; given values are not changed.

        Chunks are never larger than the phone's 128 rows, for prompts of any length. Contexts are whole
        chunks.
        """
        size = chunk if chunk is not None else max(1, round(128 * min(1.0, tokens / PAPER_TOKENS)))
        wholes = [-(-rows * tokens // (PAPER_TOKENS * max(1, size))) for rows in cls.contexts]
        return cls(size, tuple(contexts) or tuple(size * one for one in wholes))

    @property
    def variants(self) -> list[tuple[int, int]]:
        """(rows, context) of the four graphs; fewer if some are equal."""
        return list(dict.fromkeys((rows, size) for size in self.contexts for rows in (self.chunk, 1)))

    def chunks(self, rows: int) -> int:
        """The number of prefill calls for a prompt of `rows` rows."""
        return -(-rows // self.chunk)

    def layout(self, rows: int) -> Iterator[Chunk]:
        """Yield the prefill calls of a prompt, in order; only the first has padding."""
        start, pad = 0, self.chunks(rows) * self.chunk - rows
        while start < rows:
            stop = start + self.chunk - pad
            yield Chunk(pad, start, stop)
            start, pad = stop, 0

    def context(self, rows: int, new: int, compressed: bool) -> int:
        """The cache length for a prompt of `rows` and `new` decoded tokens; ValueError if it is too short.

        The last generated token never enters the cache, so `new` - 1 more rows are needed.
        """
        size, needed = self.contexts[compressed], rows + new - 1
        if needed > size:
            which = "with" if compressed else "without"
            raise ValueError(
                f"{rows} rows of prompt and {new} new tokens need {needed} rows of cache; the context "
                f"{which} compression has {size}: raise --contexts, or take fewer tokens"
            )
        return size


def variant(rows: int, context: int) -> str:
    """Name of the graph with `rows` rows per call and `context` cache rows, as in the paper: 128t1024c."""
    return f"{rows}t{context}c"
