"""Labelling one sample: an outcome of sample, model and configuration alone."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from compress.fitness import POSITIONS, AnswerLoss
from compress.labels.kinds import KINDS, Kind, Problem
from compress.labels.store import Label
from compress.models import MLLM
from compress.samples import Sample
from evosearch import GROUPERS, STRATEGIES, pick


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


class Labeller:
    """Labels one sample at a time with one model."""

    def __init__(self, mllm: MLLM, config: LabelConfig):
        self._mllm, self._config = mllm, config.resolved(mllm.visual_tokens)
        self._kind = config.make_kind()
        words: Any = mllm.decoder.embed_tokens
        self._anchors = words.weight.detach().float().cpu().numpy()  # [V, D]
        self.about = {
            **asdict(self._config),
            "visual_tokens": mllm.visual_tokens,
            "model": mllm.fingerprint(),
        }
        device = mllm.model.device
        self.forks = device.type == "cpu"
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.machine = f"{name}, torch {torch.__version__}, transformers {version('transformers')}"

    def __call__(self, sample: Sample) -> Label:
        """ValueError that names the sample if it cannot be labelled."""
        key, config = sample_key(sample), self._config
        started = time.perf_counter()
        try:
            if not sample.answers or not sample.answers[0].strip():
                raise ValueError("it has no gold answer to score")
            embedded = self._mllm.embed(sample.image, sample.question, sample.answers[0])
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
