"""Labels a data set on any engine; it can be resumed at any time without losing or repeating a sample."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.labels.labelling import LabelConfig, Labeller, sample_key
from compress.labels.store import Label, LabelStore, Writer, read_labels, writing
from compress.memory import keep_freed
from compress.models.loading import MLLM
from compress.parallel.engine import Engine, Failure, Work, WorkerPool
from compress.parallel.local import Local
from compress.progress import Progress
from compress.samples import Catalogue, Sample

SHARD_ROWS, SHARD_SECONDS = 256, 20.0  # limits for writing a shard, whichever is reached first
TOLERATED = 20  # failures that are tolerated even if most samples fail


def usual_together(device: str) -> int:
    """Default number of samples that one worker labels at a time, by device type (docs/performance.md)."""
    return 1 if device == "cpu" else 16


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, from 0: samples are assigned by the hashes of their keys, in any order."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"shard {self}: choose i/n with i from 0 to n - 1, for instance 0/{self.of}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @staticmethod
    def of_text(text: str) -> Shard:
        """Parse "i/n"."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(of)):
            raise ValueError(f"shard {text!r}: write i/n, for instance 0/4 for the first of four")
        return Shard(int(number), int(of))

    @property
    def name(self) -> str:
        """Prefix of its files, so that shards may share a folder."""
        return "labels" if self.of == 1 else f"labels-{self.number}of{self.of}"

    def holds(self, key: str) -> bool:
        if self.of == 1:
            return True
        return int.from_bytes(hashlib.sha256(f"shard/{key}".encode()).digest()[:8]) % self.of == self.number


def label(
    model: MLLM | Callable[..., MLLM],
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    config: LabelConfig | None = None,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    together: int | None = None,
    rows: int | None = None,
    shard: Shard | None = None,
    data: Mapping[str, Any] | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> LabelStore:
    """Label `samples` into the store at `folder`; existing labels are skipped, so a rerun resumes.

    The label of a sample depends only on the model, the configuration and the sample, not on order,
    `workers`, `engine` (default: this machine) or interruptions. `model` may be a function that loads it, and
    must be one for workers elsewhere: it takes a `device` if each worker has its own. `shard` restricts the
    run to a part of the samples. `data` holds any further data that the labels depend on; it is stored with
    the settings.

    A worker labels `together` samples at a time, whose candidates share batches of `rows` decoder rows; both
    affect only speed and memory. Default: by the model's device, or one sample if the device is not known.

    A sample that fails three times is put in quarantine with the reasons and not tried again, unless `again`.
    Finished samples are kept, however the run ends. Raises ValueError for a store of another configuration or
    model (naming the difference), and if most samples or all of them fail; OSError if the store cannot be
    written.
    """
    if isinstance(model, MLLM) and engine is not None and engine.elsewhere:
        # transformers registers classes when it builds a model: a pickled model loses its hidden states.
        raise ValueError(
            f"engine {engine.name}: its workers load the model themselves, so give a function that does, "
            f"for instance partial(load, {model.name!r})"
        )
    if together is None:
        together = usual_together(model.model.device.type) if isinstance(model, MLLM) else 1
    make = partial(_labeller, model, config or LabelConfig(), rows)
    return gather(
        make, samples, folder, workers=workers, engine=engine, together=together, shard=shard, data=data,
        again=again, progress=progress,
    )  # fmt: skip


def gather(
    make: Callable[..., Work],
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    engine: Engine | None = None,
    together: int = 1,
    shard: Shard | None = None,
    data: Mapping[str, Any] | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> LabelStore:
    """As `label`, with labels from the work that `make` builds, which needs `many` for `together` above 1."""
    if together < 1:
        raise ValueError(f"together={together}: choose 1 or more samples")
    engine, shard = engine or Local(), shard or Shard()
    with (
        engine.open(partial(_PackedWork, make), workers) as crew,
        writing(folder, {**crew.about, **(data or {})}, shard.name) as writer,
    ):
        todo, total = _todo(samples, writer, shard, again)
        writer.run |= {"engine": engine.name, "workers": workers, "shard": str(shard), "total": total}
        outcomes = _outcomes(crew, (samples[place] for place in todo.tolist()), together)
        _fill(writer, crew, outcomes, len(todo), total, progress)
    return read_labels(folder)


def _todo(
    samples: Sequence[Sample], writer: Writer, shard: Shard, again: bool
) -> tuple[NDArray[np.int64], int]:
    """Places of this shard's samples without label or quarantine, and the number of its samples."""
    if isinstance(samples, Catalogue):
        keys = [samples.key(place) for place in range(len(samples))]
    else:
        keys = [sample_key(sample) for sample in samples]
    mine = np.array([shard.holds(key) for key in keys], bool)
    todo = writer.missing(keys, again=again)
    return todo[mine[todo]], int(mine.sum())


class _PackedWork:
    """A work whose jobs are several samples. It returns a label for each, or None to retry it alone."""

    def __init__(self, make: Callable[..., Any], **place: str):
        self._work = make(**place)
        self.about, self.forks, self.machine = self._work.about, self._work.forks, self._work.machine

    def __call__(self, pack: tuple[Sample, ...]) -> tuple[Label | None, ...]:
        if len(pack) == 1:
            return (self._work(pack[0]),)
        return tuple(None if isinstance(made, ValueError) else made for made in self._work.many(pack))


def _outcomes(
    crew: WorkerPool, todo: Iterable[Sample], together: int
) -> Generator[tuple[Sample, Label | Failure], None, None]:
    """Yield the label or failure of every sample; one that failed in a pack is tried again alone."""
    left, again = iter(todo), deque[Sample]()

    def packs() -> Iterator[tuple[Sample, ...]]:
        while True:
            if again:
                yield (again.popleft(),)
            elif pack := tuple(islice(left, together)):
                yield pack
            else:
                return

    while True:
        with closing(crew.each(packs())) as outcomes:
            for pack, outcome in outcomes:
                if isinstance(outcome, Failure):
                    if len(pack) == 1:
                        yield pack[0], outcome
                    else:
                        again.extend(pack)
                    continue
                for sample, made in zip(pack, outcome, strict=True):
                    if made is None:
                        again.append(sample)
                    else:
                        yield sample, made
        if not again:  # samples may have failed after the last pack was taken
            return


def _fill(
    writer: Writer,
    crew: WorkerPool,
    outcomes: Generator[tuple[Sample, Label | Failure], None, None],
    left: int,
    total: int,
    progress: Progress | None,
) -> None:
    """Write labels in batches as they arrive, and put failed samples in quarantine."""
    done = total - left
    made, failed, reason = 0, 0, ""
    finished: list[Label] = []
    written = time.monotonic()
    if progress:
        progress(done, total)
    try:
        with closing(outcomes):
            for sample, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failed, reason = failed + 1, outcome.reasons[-1]
                    writer.give_up(sample_key(sample), outcome.reasons)
                    if failed > max(TOLERATED, made):
                        raise ValueError(
                            f"{failed} of {made + failed} samples failed, so this run stops; the last one: "
                            f"{reason}"
                        )
                else:
                    made += 1
                    finished.append(outcome)
                if len(finished) >= SHARD_ROWS or time.monotonic() - written > SHARD_SECONDS:
                    batch, finished = finished, []
                    writer.write(batch, crew.machines)
                    written = time.monotonic()
                done += 1
                if progress:
                    progress(done, total)
    finally:
        writer.write(finished, crew.machines)
    if writer.empty:
        raise ValueError(
            reason or (f"all {total} samples are in quarantine: see why, mend it, and try them again")
            if total
            else "there is nothing to label: no samples, or none in this shard"
        )


def _labeller(
    model: MLLM | Callable[..., MLLM], config: LabelConfig, rows: int | None, **place: str
) -> Labeller:
    keep_freed()
    return Labeller(model if isinstance(model, MLLM) else model(**place), config, rows=rows)
