"""Labels single samples; the result depends only on sample, model and configuration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from compress.fingerprint import fingerprint
from compress.keep import MOST, NINTH, Keep, count_of, read_keep
from compress.labels.fitness import POSITIONS, AnswerLosses, TokenBudget
from compress.labels.kinds import KINDS, ChosenMask, Kind, Problem
from compress.labels.store import CODE, Label
from compress.models.loading import MLLM, Embedded
from compress.parallel.engine import machine_of
from compress.plain import to_plain
from compress.samples import Sample
from evosearch import GROUPERS, STRATEGIES, pick, together
from evosearch.registry import cut, find, parse


@dataclass(frozen=True)
class LabelConfig:
    """Settings of labelling; the defaults are the paper's, except for `evaluations`, which it does not give.

    `kind`, `grouper` and `strategy` are specs such as "dpc-knn:neighbours=4". Default of `strategy`: the
    kind's own. `keep` is the number of tokens in a label, or a ratio of each image's tokens ("11.1%", "1/9",
    a float between 0 and 1). Default: a ninth of them. `evaluations` is the budget per sample.
    """

    kind: str = "best"
    keep: Keep | None = None
    grouper: str = "vocabulary"
    strategy: str | None = None
    evaluations: int = 408
    positions: str = "original"
    seed: int = 0

    def __post_init__(self) -> None:
        to_plain(self)
        kind = self.make_kind()
        # Errors in specs are found before the first sample, with dummy values for a sample's data.
        pick(GROUPERS, self.grouper, "grouper", groups=1, anchors=np.ones((1, 1)), grid=(1, 1))
        if self.strategy is not None and kind.strategy is None:
            raise ValueError(
                f"strategy={self.strategy!r}: labels of kind {self.kind!r} need no search; leave it out"
            )
        if chosen := self.strategy or kind.strategy:
            pick(STRATEGIES, chosen, "strategy")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: choose one of {', '.join(POSITIONS)}")
        if self.keep is not None:
            object.__setattr__(self, "keep", read_keep(self.keep))
        if not 1 <= self.evaluations <= MOST:
            raise ValueError(f"evaluations={cut(self.evaluations)}: choose 1 or more, and at most {MOST:,}")

    def make_kind(self) -> Kind:
        return pick(KINDS, self.kind, "label kind")

    def resolved(self, mllm: MLLM) -> LabelConfig:
        """The configuration with every default filled in for this model.

        A ratio becomes a count if all images have the same number of visual tokens, otherwise it stays a
        ratio.
        """
        keep, visual_tokens = self.keep or NINTH, mllm.visual_tokens
        if mllm.one_size:
            keep = count_of(keep, visual_tokens)
        if count_of(keep, visual_tokens) > visual_tokens:
            raise ValueError(
                f"keep={keep}: choose between 1 and the {visual_tokens} visual tokens of this model"
            )
        return replace(self, keep=keep, strategy=self.strategy or self.make_kind().strategy)


def sample_key(sample: Sample) -> str:
    """Identifier of a sample in a store: the task's name, then the id, which is unique within the task."""
    return f"{sample.task}/{sample.id}" if sample.task else sample.id


def sample_seed(seed: int, key: str) -> int:
    """The seed of one sample's search; it depends only on the run's seed and the sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8]) >> 1


def code_of(mllm: MLLM, config: LabelConfig) -> tuple[object, ...]:
    """The code that makes such labels, for `compress.fingerprint`: only the chosen kind and grouper count."""
    kind = config.make_kind()
    strategy = config.strategy or kind.strategy
    chosen = [find(STRATEGIES, parse(strategy)[0], "strategy")] if strategy else []
    return Labeller, type(mllm), type(kind), find(GROUPERS, parse(config.grouper)[0], "grouper"), *chosen


class Labeller:
    """Labels samples with one model: one at a time, or `many` whose candidates share batches.

    `rows` is the number of decoder rows at a time. Default: by device.
    """

    def __init__(self, mllm: MLLM, config: LabelConfig, *, rows: int | None = None):
        self._mllm, self._config = mllm, config.resolved(mllm)
        self._kind = config.make_kind()
        device = mllm.model.device
        words: Any = mllm.decoder.embed_tokens
        self._anchors = words.weight.detach().float().cpu().numpy()  # [V, D]
        self._nearest = None if device.type == "cpu" else Nearest(words.weight.detach())
        self._budget = TokenBudget(rows) if rows else TokenBudget.for_device(device)
        # Python proposes candidates for one half of the samples while a GPU evaluates the other.
        self._lanes = 1 if device.type == "cpu" else 2
        self.about = {
            **asdict(self._config),
            "visual_tokens": mllm.visual_tokens,
            "model": mllm.fingerprint(),
            CODE: fingerprint(*code_of(mllm, config)),
        }
        self.forks = device.type == "cpu"
        self.machine = machine_of(device)

    def __call__(self, sample: Sample) -> Label:
        """Label one sample; ValueError that names the sample if it cannot be labelled."""
        (made,) = self.many([sample])
        if isinstance(made, ValueError):
            raise made
        return made

    def many(self, samples: Sequence[Sample]) -> list[Label | ValueError]:
        """The label or error of each sample, the same as alone; `seconds` are shared equally."""
        started = time.perf_counter()
        embedded: dict[int, Embedded] = {}
        outcomes: dict[int, ChosenMask | ValueError] = {}
        for place, sample in enumerate(samples):
            try:
                embedded[place] = self._embedded(sample)
            except ValueError as problem:
                outcomes[place] = problem
        full: dict[int, float | ValueError] = {}
        if embedded:
            losses = AnswerLosses(self._mllm, embedded, positions=self._config.positions, budget=self._budget)
            full = losses.full
            outcomes |= {place: loss for place, loss in full.items() if isinstance(loss, ValueError)}
            proposers = {
                place: self._kind.choose(self._problem(samples[place], one))
                for place, one in embedded.items()
                if place not in outcomes
            }
            outcomes |= together(proposers, losses.launch, self._lanes)
        seconds = (time.perf_counter() - started) / max(1, len(samples))
        return [
            self._label(sample, outcomes[place], full.get(place), seconds)
            for place, sample in enumerate(samples)
        ]

    def _embedded(self, sample: Sample) -> Embedded:
        if not sample.answers or not sample.answers[0].strip():
            raise ValueError("it has no gold answer to score")
        picture = sample.visual_at(self._mllm.image_side)
        embedded = self._mllm.embed(picture, sample.question, sample.answers[0])
        assert self._config.keep is not None
        tokens = len(embedded.visual)
        if (keep := count_of(self._config.keep, tokens)) > tokens:
            raise ValueError(
                f"keep={keep} is more than the {tokens} visual tokens of its image: a ratio, as '11.1%', "
                f"fits images of any size"
            )
        return embedded

    def _problem(self, sample: Sample, embedded: Embedded) -> Problem:
        config = self._config
        assert config.keep is not None
        return Problem(
            visual=embedded.embeds[embedded.visual].float().cpu().numpy(),
            anchors=self._anchors,
            grid=embedded.grid,
            keep=count_of(config.keep, len(embedded.visual)),
            grouper=config.grouper,
            strategy=config.strategy,
            evaluations=config.evaluations,
            seed=sample_seed(config.seed, sample_key(sample)),
            nearest=self._nearest,
        )

    def _label(
        self,
        sample: Sample,
        outcome: ChosenMask | ValueError,
        full: float | ValueError | None,
        seconds: float,
    ) -> Label | ValueError:
        key = sample_key(sample)
        if isinstance(outcome, ValueError):
            named = ValueError(f"sample {key!r}: {outcome}")
            named.__cause__ = outcome
            return named
        assert isinstance(full, float)
        score = None if outcome.score is None else tuple(outcome.score.astype(np.float32).tolist())
        return Label(
            id=key,
            kept=tuple(outcome.kept.tolist()),
            loss_before=outcome.before,
            loss_after=outcome.after,
            loss_full=full,
            evaluations=outcome.evaluations,
            seed=sample_seed(self._config.seed, key),
            seconds=seconds,
            score=score,
        )


class Nearest:
    """Indices of the words nearest by cosine to vectors [N, D], found on the device of the words [V, D].

    A CPU takes seconds for the vocabulary of a large model, longer than a GPU for the whole search.
    """

    BLOCK = 16384  # words at a time

    def __init__(self, words: Tensor):
        self._words = words

    @torch.inference_mode()
    def __call__(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        rows = torch.from_numpy(vectors).to(self._words.device, torch.float32)
        blocks = self._words.split(self.BLOCK)
        # An all-zero word (padding) has cosine 0 with every vector.
        best = [(rows @ F.normalize(block.float(), dim=1).T).max(1) for block in blocks]
        block = torch.stack([found.values for found in best]).argmax(0)  # [N]
        place = torch.stack([found.indices for found in best])[
            block, torch.arange(len(rows), device=rows.device)
        ]
        nearest: NDArray[np.int64] = (block * self.BLOCK + place).cpu().numpy()
        return nearest
