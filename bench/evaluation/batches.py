"""The number of samples that go through a model at a time; it is halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from compress.memory import in_batches

Item = TypeVar("Item")
R = TypeVar("R")

START, START_CPU = 64, 16  # automatic first sizes; above 16 a CPU gains nothing (docs/performance.md)


@dataclass
class Batches:
    """Batches of `size` items; an `automatic` size is halved whenever memory runs out, and stays so."""

    size: int
    automatic: bool = False

    @classmethod
    def of(cls, size: int | None, device: str) -> Batches:
        """Return batches of this size; None: automatic ones, with a first size for the kind of device."""
        if size:
            return cls(size)
        return cls(START_CPU if device == "cpu" else START, automatic=True)

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], R]) -> Iterator[R]:
        """Yield the results of `work` on the items in order, one batch at a time.

        Each item is processed once. ValueError if memory runs out for a single item, or for a batch whose
        size was requested.
        """
        return in_batches(
            len(items), lambda left: min(self.size, left),
            lambda start, count: work(items[start : start + count]), self._smaller,
        )  # fmt: skip

    def _smaller(self, count: int) -> None:
        """Halve the size after memory ran out for `count` items. ValueError if it must not be halved."""
        if count == 1:
            raise ValueError(
                "there is not enough memory for one sample at a time: choose --dtype bfloat16, a smaller "
                "--keep, or another --device"
            )
        if not self.automatic:
            raise ValueError(
                f"there is not enough memory for {count} samples at a time: choose a smaller --batch, or "
                f"--batch auto"
            )
        self.size = count // 2
