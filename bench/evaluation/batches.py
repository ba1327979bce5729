"""How many samples go through a model at a time: fewer where memory runs out, and no more from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from compress.parallel.memory import in_batches

Item = TypeVar("Item")
R = TypeVar("R")

START, START_CPU = 64, 16  # of automatic batches; more than 16 gain nothing on a CPU (docs/performance.md)


@dataclass
class Batches:
    """`size` items at a time; where it is `automatic`, half of that whenever memory runs out."""

    size: int
    automatic: bool = False

    @classmethod
    def of(cls, size: int | None, device: str) -> Batches:
        """Batches of this size; None: automatic ones, which begin with a size for the kind of device."""
        if size:
            return cls(size)
        return cls(START_CPU if device == "cpu" else START, automatic=True)

    def over(self, items: Sequence[Item], work: Callable[[Sequence[Item]], R]) -> Iterator[R]:
        """What `work` makes of the items, each of them once and in order, a batch at a time.

        ValueError if memory runs out for a single item, or for a batch whose size was asked for.
        """
        return in_batches(
            len(items), lambda left: min(self.size, left),
            lambda start, count: work(items[start : start + count]), self._smaller,
        )  # fmt: skip

    def _smaller(self, count: int) -> None:
        """Remember that memory ran out for so many items."""
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
