"""From image and question to the answer on one runtime, stage by stage, with the time of each stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.edge.bundle import BundleSettings
from bench.edge.precision import Floats, Ints
from bench.edge.runner import Backend
from bench.evaluation.times import NOW, ClockKind
from compress.base import Positions

STAGES = ("vision", "compression", "prefill", "decode")


@dataclass(frozen=True)
class EdgePrompt:
    """One prompt: pixels [1, 3, height, width] and the token ids before and after the image."""

    pixels: Floats
    before: Sequence[int]
    after: Sequence[int]

    @property
    def words(self) -> int:
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class ChainOutput:
    """The output of one pass of the chain."""

    ids: list[int]  # of the answer, with the end token if it was generated
    kept: list[int]  # visual tokens that entered the decoder
    rows: int  # of the prompt after compression
    logits: list[Floats]  # [V] from which each id was taken
    milliseconds: dict[str, float]  # by stage; decode: mean per token, 0 if none was decoded


@dataclass
class Chain:
    """A backend with the host's small part of the work: embedding table, top-k, argmax.

    `positions`: kept tokens keep their positions ("original", as in EvoComp's evaluation) or are numbered
    consecutively ("compact", the only choice if a runtime needs consecutive positions).
    """

    backend: Backend
    settings: BundleSettings
    embeddings: Floats  # [V, H]
    positions: Positions = "original"
    clock: ClockKind = "wall"

    def __post_init__(self) -> None:
        if self.positions == "original" and not self.backend.gaps:
            raise ValueError("this runtime takes consecutive positions only: add --positions compact")

    def run(self, question: EdgePrompt, keep: int, new: int, stop: Collection[int] = ()) -> ChainOutput:
        """Answer greedily with at most `new` tokens, after compression to `keep` visual tokens.

        ValueError for a prompt that does not fit into the fixed shapes.
        """
        tokens, backend = self.settings.tokens, self.backend
        context = self.settings.context(keep, question.words, new)
        clock = StageClock(NOW[self.clock])
        with clock("vision"):
            visual = backend.vision(question.pixels)
        before, after = self.embeddings[list(question.before)], self.embeddings[list(question.after)]
        rows, kept = np.concatenate([before, visual, after]), np.arange(tokens)
        places = np.arange(len(rows))
        if keep < tokens:
            with clock("compression"):
                kept = self._choose(before, visual, after, keep)
                front, back = places[: len(before)], places[len(before) + tokens :]
                places = np.concatenate([front, len(before) + kept, back])
                rows = rows[places]
        following = len(before) + tokens + len(after) if self.positions == "original" else len(rows)
        if self.positions == "compact":
            places = np.arange(len(rows))
        with clock("prefill"):
            logits = [backend.runner(context).prefill(rows, places)]
        ids = [int(logits[0].argmax())]
        while len(ids) < new and ids[-1] not in stop:
            with clock("decode"):
                row = self.embeddings[ids[-1]]
                logits.append(backend.runner(context).decode(row, following + len(ids) - 1))
                ids.append(int(logits[-1].argmax()))
        clock.spent["decode"] /= max(1, len(ids) - 1)
        return ChainOutput(ids, kept.tolist(), len(rows), logits, clock.spent)

    def _choose(self, before: Floats, visual: Floats, after: Floats, keep: int) -> Ints:
        """The visual tokens [keep] with the highest logits, ascending; for equal logits the lower index."""
        text = self.settings.reads_text
        read = np.concatenate([before, visual, after]) if text else visual
        padded = np.zeros((self.settings.length, read.shape[1]), np.float32)
        padded[: len(read)] = read
        present = (np.arange(len(padded)) < len(read)).astype(np.float32)
        start = len(before) * text
        scores = self.backend.score(padded, present)[start : start + len(visual)]
        best: NDArray[np.int64] = np.sort(np.argsort(-scores, kind="stable")[:keep])
        return best


@dataclass
class StageClock:
    """Milliseconds by stage; blocks of the same stage add up. `now` returns seconds."""

    now: Callable[[], float]
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = self.now()
        yield
        self.spent[stage] += 1000 * (self.now() - started)
