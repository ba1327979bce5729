"""Labelling a data set: one search per sample, independent of order and worker, resumable at any moment."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from compress.fitness import POSITIONS, AnswerLoss
from compress.labels.kinds import KINDS, Kind, Problem
from compress.labels.store import Label, LabelStore, Writer, read_labels
from compress.models import MLLM
from compress.samples import Sample
from compress.workers import each
from evosearch import GROUPERS, STRATEGIES, pick

SHARD_ROWS, SHARD_SECONDS = 256, 20.0  # a shard is written at whichever is first
Progress = Callable[[int, int], object]  # samples done, samples in all


@dataclass(frozen=True)
class LabelConfig:
    """How labels are made; the defaults are the paper's.

    `kind`, `grouper` and `strategy` are specs such as "dpc-knn:neighbours=4"; without a strategy, the kind's
    own. `keep` is the number of tokens in a label; without it a ninth of the visual tokens. `evaluations` is
    the budget per sample.
    """

    kind: str = "best"
    keep: int | None = None
    grouper: str = "vocabulary"
    strategy: str | None = None
    evaluations: int = 408
    positions: str = "original"
    seed: int = 0

    def __post_init__(self) -> None:
        kind = self.make_kind()
        # Errors in specs are found here, not at the first sample; what a sample offers is a stand-in.
        pick(GROUPERS, self.grouper, "grouper", groups=1, anchors=np.ones((1, 1)), grid=(1, 1))
        if self.strategy is not None and kind.strategy is None:
            raise ValueError(
                f"strategy={self.strategy!r}: labels of kind {self.kind!r} need no search; leave it out"
            )
        if chosen := self.strategy or kind.strategy:
            pick(STRATEGIES, chosen, "strategy")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: choose one of {', '.join(POSITIONS)}")
        if self.evaluations < 1:
            raise ValueError(f"evaluations={self.evaluations}: choose 1 or more")

    def make_kind(self) -> Kind:
        return pick(KINDS, self.kind, "label kind")

    def resolved(self, visual_tokens: int) -> LabelConfig:
        """The same with every default filled in, for a model with this many visual tokens."""
        keep = self.keep if self.keep is not None else max(1, round(visual_tokens / 9))
        if not 1 <= keep <= visual_tokens:
            raise ValueError(
                f"keep={keep}: choose between 1 and the {visual_tokens} visual tokens of this model"
            )
        return replace(self, keep=keep, strategy=self.strategy or self.make_kind().strategy)


def sample_key(sample: Sample) -> str:
    """What identifies a sample in a store: its id, unique inside its task, after the task's name."""
    return f"{sample.task}/{sample.id}" if sample.task else sample.id


def sample_seed(seed: int, key: str) -> int:
    """The seed of one sample's search: it depends on the run's seed and the sample, on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8]) >> 1


def label(
    mllm: MLLM,
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    config: LabelConfig | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> LabelStore:
    """Label `samples` into the store at `folder`; those it holds already are skipped, so a rerun resumes.

    The label of a sample depends on the model, the configuration and the sample alone, not on order or
    `workers` (processes with one thread each; a model on a GPU takes one). Whatever ends the run, finished
    samples are kept. Raises ValueError for a store of another configuration or model (naming the difference)
    and for bad samples, OSError if the store cannot be written.
    """
    if workers < 1 or (workers > 1 and mllm.model.device.type != "cpu"):
        where = mllm.model.device
        raise ValueError(f"workers={workers}: choose 1, or more with a model on the CPU (this one: {where})")
    settings = (config or LabelConfig()).resolved(mllm.visual_tokens)
    about = {**asdict(settings), "visual_tokens": mllm.visual_tokens, "model": mllm.fingerprint()}
    writer = Writer(folder, about)
    todo = _missing(samples, writer.present)
    done, total = len(samples) - len(todo), len(samples)
    if progress:
        progress(done, total)
    waiting = (samples[place] for place in todo)
    made = each(Labeller(mllm, settings), waiting, workers, ordered=True)
    finished: list[Label] = []
    written = time.monotonic()
    try:
        with closing(made):
            for _, one in made:
                finished.append(one)
                if len(finished) >= SHARD_ROWS or time.monotonic() - written > SHARD_SECONDS:
                    batch, finished = finished, []
                    writer.write(batch)
                    written = time.monotonic()
                done += 1
                if progress:
                    progress(done, total)
    finally:
        writer.write(finished)
    return read_labels(folder)


class Labeller:
    """Labels one sample at a time with one model."""

    def __init__(self, mllm: MLLM, config: LabelConfig):
        """`config` must be resolved."""
        self._mllm, self._config, self._kind = mllm, config, config.make_kind()
        words: Any = mllm.decoder.embed_tokens
        self._anchors = words.weight.detach().float().cpu().numpy()  # [V, D]

    def __call__(self, sample: Sample) -> Label:
        """ValueError that names the sample if it cannot be labelled."""
        key, config = sample_key(sample), self._config
        started = time.perf_counter()
        try:
            if not sample.answers or not sample.answers[0].strip():
                raise ValueError("it has no gold answer to score")
            picture = sample.image_at(self._mllm.image_side)
            embedded = self._mllm.embed(picture, sample.question, sample.answers[0])
            loss = AnswerLoss(self._mllm, embedded, positions=config.positions)
            assert config.keep is not None
            problem = Problem(
                visual=embedded.embeds[embedded.visual].float().cpu().numpy(),
                anchors=self._anchors,
                grid=embedded.grid,
                loss=loss,
                keep=config.keep,
                grouper=config.grouper,
                strategy=config.strategy,
                evaluations=config.evaluations,
                seed=sample_seed(config.seed, key),
            )
            choice = self._kind(problem)
        except ValueError as error:
            raise ValueError(f"sample {key!r}: {error}") from error
        score = None if choice.score is None else tuple(choice.score.astype(np.float32).tolist())
        seconds = time.perf_counter() - started
        return Label(
            id=key,
            kept=tuple(choice.kept.tolist()),
            loss_before=choice.before,
            loss_after=choice.after,
            loss_full=loss.full,
            evaluations=choice.evaluations,
            seed=problem.seed,
            seconds=seconds,
            score=score,
        )


def _missing(samples: Sequence[Sample], present: set[str]) -> list[int]:
    """Places of the samples that the store does not hold yet."""
    places: dict[str, int] = {}
    for place, sample in enumerate(samples):
        key = sample_key(sample)
        if key in places:
            raise ValueError(f"sample id {key!r} occurs twice; ids must be unique in a store")
        places[key] = place
    return [place for key, place in places.items() if key not in present]
