"""Training the compressor on labels (paper section 7); the LLM is frozen, its embeddings computed once."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import torch

from compress.examples import Examples, Target, collect
from compress.files import replacing
from compress.labels.store import Label, LabelStore, refuse_difference
from compress.losses import Objective, make_objective
from compress.models import MLLM
from compress.network import CONFIG, Compressor, read_description
from compress.samples import Sample

CHECKPOINT, CURVES, PICTURE = "checkpoint.pt", "curves.csv", "curves.png"
Progress = Callable[[str, int, int], object]  # stage, done, in all


@dataclass(frozen=True)
class TrainConfig:
    """How a compressor is trained; the defaults are the paper's, apart from the batch for small data sets.

    `loss` is a name in LOSSES, with `lambda_cos` for its cosine part and `bins`, `momentum` and
    `normalise_by` for GHM. `target` is what a token learns: whether it was kept ("label"), or by label kinds
    that score every token, its score ("score") or its lead over the best token left out ("lead"). `holdout`
    is the share of samples that choose the checkpoint when there is no validation function.
    """

    loss: str = "ghm+cos"
    lambda_cos: float = 1.0
    bins: int = 100
    momentum: float = 0.0
    normalise_by: Literal["nonempty", "bins"] = "nonempty"
    target: Target = "label"
    epochs: int = 30
    batch: int = 64
    lr: float = 0.003
    weight_decay: float = 0.0
    warmup: float = 0.0  # share of all steps
    clip: float | None = None  # largest gradient norm
    text: bool = True
    layers: int = 1
    norm: bool = False
    init: Literal["decoder", "random"] = "decoder"
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        self.make_objective()
        for name in ("epochs", "batch", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: choose 1 or more")
        if not self.lr > 0 or self.weight_decay < 0:
            given = f"lr={self.lr}, weight_decay={self.weight_decay}"
            raise ValueError(f"{given}: choose lr above 0 and no negative decay")
        if not self.lambda_cos >= 0:
            raise ValueError(f"lambda_cos={self.lambda_cos}: choose 0 or more")
        if not 0 <= self.warmup < 1 or not 0 < self.holdout < 1:
            given = f"warmup={self.warmup}, holdout={self.holdout}"
            raise ValueError(f"{given}: choose shares in [0, 1) and (0, 1)")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip}: choose a gradient norm above 0, or None")
        for name, known in (("target", get_args(Target)), ("init", ("decoder", "random"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")

    def make_objective(self) -> Objective:
        return make_objective(
            self.loss,
            bins=self.bins,
            momentum=self.momentum,
            normalise_by=self.normalise_by,
            lambda_cos=self.lambda_cos,
        )

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at `step` of `steps`: linear warm-up, then a cosine to zero."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


@dataclass(frozen=True)
class Epoch:
    """One row of the curves.

    `score` chooses the checkpoint, higher is better: the validation function's, or without one the mean share
    of a held-out sample's label among as many tokens of highest probability.
    """

    epoch: int  # from 1
    rate: float  # learning rate of its first step
    loss: float  # mean training loss
    score: float
    seconds: float  # since training began, in this process


@dataclass(frozen=True, eq=False)
class TrainResult:
    folder: Path
    compressor: Compressor  # of the best epoch
    history: tuple[Epoch, ...]
    samples: int  # trained on, held-out ones excluded

    @property
    def best(self) -> Epoch:
        return max(self.history, key=lambda epoch: epoch.score)  # the earliest among equals


def train(
    mllm: MLLM,
    labels: LabelStore | Sequence[Label],
    samples: Iterable[Sample],
    folder: str | os.PathLike[str],
    config: TrainConfig | None = None,
    *,
    validate: Callable[[Compressor], float] | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a compressor for `mllm` on those of `samples` that have a label; `folder` gets all results.

    The weights in `folder` are those of the best epoch so far by `validate` (higher is better), at any
    moment. `notes`, ready for JSON, are saved with them, beside the configuration and the model's name; by
    default how the labels of a store were made. A run that was killed goes on after its last complete epoch,
    to the same result as without the interruption. ValueError for labels that match no sample, for a loss
    that is not a number, and for a folder with another run in it.
    """
    config, target = config or TrainConfig(), Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    report = progress or _say_nothing
    examples = collect(
        mllm, labels, samples, target=config.target, scratch=target, progress=partial(report, "embed")
    )
    if notes is None:
        notes = {"labels": [dict(labels.settings)]} if isinstance(labels, LabelStore) else {}
    return _Run(mllm, examples, target, config, validate, notes).finish(partial(report, "train"))


def _say_nothing(stage: str, done: int, total: int) -> None:
    pass


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        mllm: MLLM,
        examples: Examples,
        folder: Path,
        config: TrainConfig,
        validate: Callable[[Compressor], float] | None,
        notes: Mapping[str, Any],
    ):
        self.examples, self.folder, self.config = examples, folder, config
        base = Path(mllm.name)
        self.notes = {"base_model": base.name if base.exists() else mllm.name, **notes}
        self.device = mllm.model.device
        self.study, self.exam = _split(examples, 0.0 if validate else config.holdout, config.seed)
        self.validate = validate or self._agreement
        self.settings = {
            **asdict(config),
            "validated": "by a function" if validate else "on held-out labels",
            "examples": len(examples),
            "data": examples.digest(),
            "model": mllm.fingerprint(),
        }
        self.compressor = _start(mllm.decoder, config).to(self.device)
        self.objective = config.make_objective().to(self.device)
        parameters = self.compressor.parameters()
        self.optimizer = torch.optim.Adam(parameters, config.lr, weight_decay=config.weight_decay)
        self.history: list[Epoch] = []
        self._resume()

    def finish(self, progress: Callable[[int, int], object]) -> TrainResult:
        """Train the epochs that are left."""
        config, started = self.config, time.perf_counter()
        per_epoch = math.ceil(len(self.study) / config.batch)
        total = config.epochs * per_epoch
        for epoch in range(len(self.history), config.epochs):
            losses = []
            self.compressor.train()
            for step, places in enumerate(self._batches(epoch), epoch * per_epoch):
                losses.append(self._step(places, config.rate(step, total)))
                progress(step + 1, total)
            self.compressor.eval()
            score = float(self.validate(self.compressor))
            if not math.isfinite(score):
                raise ValueError(f"epoch {epoch + 1}: the validation score is {score}, not a finite number")
            rate, seconds = config.rate(epoch * per_epoch, total), time.perf_counter() - started
            self._record(Epoch(epoch + 1, rate, sum(losses) / len(losses), score, seconds))
        _draw(self.history, self.folder / PICTURE)
        return TrainResult(self.folder, Compressor.load(self.folder), tuple(self.history), len(self.study))

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Places in an order that follows from seed and epoch alone, so that resuming needs no more."""
        shuffler = Random(f"{self.config.seed}/{epoch}")
        order = shuffler.sample(self.study, len(self.study))
        for start in range(0, len(order), self.config.batch):
            yield order[start : start + self.config.batch]

    def _step(self, places: list[int], rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        lesson = self.examples.lesson(places, text=self.config.text, device=self.device)
        logits, hidden = self.compressor(lesson.batch)
        loss = self.objective(logits, hidden, lesson.targets, lesson.kept, lesson.batch.valid)
        value = loss.item()
        if not math.isfinite(value):
            now = f"epoch {len(self.history) + 1}: the loss became {value}"
            raise ValueError(f"{now}; choose a smaller lr (now {self.config.lr}) or a clip")
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.compressor.parameters(), self.config.clip)
        self.optimizer.step()
        return value

    @torch.inference_mode()
    def _agreement(self, compressor: Compressor) -> float:
        """Mean share of the labels of held-out samples among as many tokens of highest probability.

        Not the loss, since GHM weighs tokens by the whole batch and cannot be compared between epochs.
        """
        shares = []
        for start in range(0, len(self.exam), self.config.batch):
            places = self.exam[start : start + self.config.batch]
            lesson = self.examples.lesson(places, text=self.config.text, device=self.device)
            logits = compressor(lesson.batch)[0].masked_fill(~lesson.batch.valid, -torch.inf)
            for row, kept in zip(logits, lesson.kept, strict=True):
                shares.append(kept[row.topk(int(kept.sum())).indices].float().mean().item())
        return sum(shares) / len(shares)

    def _record(self, epoch: Epoch) -> None:
        """Write what the epoch brought: the weights if they are the best so far, curves, checkpoint."""
        if epoch.score > max((earlier.score for earlier in self.history), default=-math.inf):
            noted = {"epoch": epoch.epoch, "score": epoch.score, **self.settings, **self.notes}
            self.compressor.save(self.folder, noted)
        self.history.append(epoch)
        rows = [[getattr(one, column.name) for column in fields(Epoch)] for one in self.history]
        with replacing(self.folder / CURVES) as part, part.open("w", newline="") as file:
            csv.writer(file).writerows([[column.name for column in fields(Epoch)], *rows])
        state: dict[str, Any] = {"settings": self.settings, "history": rows}
        if len(self.history) < self.config.epochs:  # a finished run needs no optimiser state
            state["compressor"] = self.compressor.state_dict()
            state["objective"] = self.objective.state_dict()
            state["optimizer"] = self.optimizer.state_dict()
        with replacing(self.folder / CHECKPOINT) as part:
            content = io.BytesIO()  # on a full disk torch.save raises an internal error, a file an OSError
            torch.save(state, content)
            part.write_bytes(content.getbuffer())

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            # Weights come before the first checkpoint: a run that ended between the two starts again.
            if (self.folder / CONFIG).exists():
                noted = read_description(self.folder).get("info", {})
                if noted | self.settings != noted:
                    raise ValueError(
                        f"{self.folder} holds a compressor of another origin; choose another folder"
                    )
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            theirs, history = state["settings"], [Epoch(*row) for row in state["history"]]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as problem:
            raise ValueError(f"{path}: unreadable; delete {self.folder} to train again") from problem
        refuse_difference(self.folder, theirs, self.settings)
        self.history = history
        if "optimizer" in state:
            self.compressor.load_weights(state["compressor"], str(path))
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])


def _split(examples: Examples, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Places to study and places to examine, drawn by seed and key."""
    if not holdout:
        return list(range(len(examples))), []
    if len(examples) < 2:
        raise ValueError("one labelled sample is not enough: one is held out to choose the checkpoint")
    draws = [hashlib.sha256(f"{seed}/{one.key}".encode()).hexdigest() for one in examples]
    order = sorted(range(len(examples)), key=draws.__getitem__)
    held = min(max(1, round(holdout * len(examples))), len(examples) - 1)
    return sorted(order[held:]), sorted(order[:held])


def _start(decoder: Any, config: TrainConfig) -> Compressor:
    """The untrained compressor, the same for the same seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.init == "decoder":
            return Compressor.from_decoder(decoder, text=config.text, layers=config.layers, norm=config.norm)
        return Compressor(decoder.config, text=config.text, layers=config.layers, norm=config.norm)


def _draw(history: Sequence[Epoch], target: Path) -> None:
    from matplotlib.figure import Figure  # not at the top: half a second of import

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [one.epoch for one in history]
    left.plot(epochs, [one.loss for one in history])
    left.set(title="training loss", xlabel="epoch")
    right.plot(epochs, [one.score for one in history])
    best = max(history, key=lambda one: one.score)
    right.plot([best.epoch], [best.score], "o", label=f"best: {best.score:.4f}")
    right.set(title="validation score", xlabel="epoch")
    right.legend()
    with replacing(target) as part:
        figure.savefig(part, format="png", dpi=120)
