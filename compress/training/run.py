"""Training the compressor on labels (paper Appendix A); the LLM is frozen, only its embeddings are used.

A batch may be split over processes and into micro-batches and is still one optimiser step: the batch
statistics of the loss are summed over all parts, and so are the gradients.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from compress.compressor.network import CONFIG, Compressor, read_description
from compress.documents import Document, checked, regular_file
from compress.files import locked, replacing
from compress.fingerprint import fingerprint
from compress.labels.store import CODE, Label, LabelStore, refuse_difference
from compress.models.loading import MLLM
from compress.parallel.processes import Processes
from compress.samples import Sample
from compress.seeding import drawing
from compress.training.config import PRESETS, TrainConfig, preset
from compress.training.curves import CURVES, PICTURE, Epoch, draw, write
from compress.training.examples import Examples, TrainingBatch, collect
from compress.training.features import Say, Where, open_features
from evosearch.registry import cut

CHECKPOINT = "checkpoint.pt"
StageProgress = Callable[[str, int, int], object]  # stage, steps done, steps in total


@dataclass(frozen=True, eq=False)
class TrainResult:
    folder: Path
    compressor: Compressor  # of the best epoch
    history: tuple[Epoch, ...]
    samples: int  # number of training samples, held-out ones excluded

    @property
    def best(self) -> Epoch:
        return max(self.history, key=lambda epoch: epoch.score)  # the earliest of equal scores


def train(
    mllm: MLLM,
    labels: LabelStore | Sequence[Label],
    samples: Iterable[Sample],
    folder: str | os.PathLike[str],
    config: TrainConfig | None = None,
    *,
    validate: Callable[[Compressor], float] | None = None,
    notes: Mapping[str, Any] | None = None,
    features: Where = "memory",
    cache: str | os.PathLike[str] | None = None,
    micro_batch: int | None = None,
    checkpoint_every: int = 200,
    progress: StageProgress | None = None,
    say: Say | None = None,
) -> TrainResult:
    """Train a compressor for `mllm` on those of `samples` that have a label; write the results to `folder`.

    At any time the weights in `folder` are those of the best epoch so far by `validate` (higher is better).
    `notes`, which must be JSON-serialisable, are saved with them, beside the configuration and the model's
    name. Default: the settings of the label store.

    The other arguments do not change results. `features` are kept in memory, on disk in the folder `cache`,
    or recomputed (`compress.training.features`); `say` receives a message about the space they need. If a
    launcher started several processes, each computes its share of every batch, at most `micro_batch` samples
    at a time; float sums then differ in the last bits. A checkpoint is written every `checkpoint_every` steps
    and after every epoch. A run that was killed resumes from it with bitwise the same results.

    ValueError for labels that match no sample or belong to another model, for losses and weights that are not
    finite, and for a folder that holds another run or that another process is writing to.
    """
    if micro_batch is not None and micro_batch < 1 or checkpoint_every < 1:
        given = f"micro_batch={micro_batch}, checkpoint_every={checkpoint_every}"
        raise ValueError(f"{given}: choose 1 or more")
    config, target = config or TrainConfig(), Path(folder)
    if isinstance(labels, LabelStore):
        labels.refuse_other(mllm.name, mllm.fingerprint(), mllm.visual_tokens)
    processes = Processes.here(mllm.model.device)
    report = progress if progress and processes.first else _say_nothing
    with locked(target) if processes.first else nullcontext():
        examples = collect(
            labels,
            samples,
            open_features(features, mllm, cache),
            target=config.target,
            processes=processes,
            progress=partial(report, "embed"),
            say=say or _say_nothing,
        )
        if notes is None:
            notes = {"labels": [dict(labels.settings)]} if isinstance(labels, LabelStore) else {}
        run = _TrainingRun(
            mllm, examples, target, config, validate, notes, processes, micro_batch, checkpoint_every
        )
        return run.finish(partial(report, "train"))


def _say_nothing(*_: object) -> None:
    pass


class _TrainingRun:
    """The state of one training run, the same in every process."""

    def __init__(
        self,
        mllm: MLLM,
        examples: Examples,
        folder: Path,
        config: TrainConfig,
        validate: Callable[[Compressor], float] | None,
        notes: Mapping[str, Any],
        processes: Processes,
        micro_batch: int | None,
        checkpoint_every: int,
    ):
        self.examples, self.folder, self.config = examples, folder, config
        self.processes, self.micro_batch = processes, micro_batch or config.batch
        self.checkpoint_every = checkpoint_every
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
            CODE: fingerprint(train, type(mllm)),
        }
        self.compressor = _start(mllm.decoder, config).to(self.device)
        self.objective = config.make_objective().to(self.device)
        parameters = self.compressor.parameters()
        self.optimizer = torch.optim.Adam(parameters, config.lr, weight_decay=config.weight_decay)
        self.history: list[Epoch] = []
        self.losses: list[float] = []  # of the steps of the current epoch
        self._resume()
        if not processes.agree((self.settings, len(self.history), len(self.losses))):
            raise ValueError(
                f"the processes differ in what they train on, or in what they found in {folder}: all of them "
                "need the same folders"
            )

    def finish(self, progress: Callable[[int, int], object]) -> TrainResult:
        """Train the remaining steps and return the result."""
        config, started = self.config, time.perf_counter()
        per_epoch = math.ceil(len(self.study) / config.batch)
        total = config.epochs * per_epoch
        for epoch in range(len(self.history), config.epochs):
            self.compressor.train()
            for step, places in enumerate(self._batches(epoch)):
                if step < len(self.losses):
                    continue  # taken before the interruption
                done = epoch * per_epoch + step
                self.losses.append(self._step(places, config.rate(done, total)))
                if (done + 1) % self.checkpoint_every == 0:
                    self._save()
                progress(done + 1, total)
            self.compressor.eval()
            if not self._is_sound():
                raise ValueError(
                    f"epoch {epoch + 1}: weights or logits are not finite numbers; choose a smaller lr"
                )
            score = self.processes.one_says(lambda: float(self.validate(self.compressor)))
            if not math.isfinite(score):
                raise ValueError(f"epoch {epoch + 1}: the validation score is {score}, not a finite number")
            rate, seconds = config.rate(epoch * per_epoch, total), time.perf_counter() - started
            self._record(Epoch(epoch + 1, rate, sum(self.losses) / len(self.losses), score, seconds))
        if self.processes.first:
            draw(self.history, self.folder / PICTURE)
        self.processes.wait()
        return TrainResult(self.folder, Compressor.load(self.folder), tuple(self.history), len(self.study))

    @torch.inference_mode()
    def _is_sound(self) -> bool:
        """Return whether all weights are finite, and the logits of one sample, which may overflow."""
        lesson = self._lesson(self.study[:1]).to(self.device)
        found = [self.compressor(lesson.batch)[0], *self.compressor.parameters()]
        return all(bool(one.isfinite().all()) for one in found)

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Yield batches of places; the order depends only on seed and epoch, so a resumed run repeats it."""
        shuffler = Random(f"{self.config.seed}/{epoch}")
        order = shuffler.sample(self.study, len(self.study))
        for start in range(0, len(order), self.config.batch):
            yield order[start : start + self.config.batch]

    def _step(self, places: list[int], rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = self._gradient(places)
        if not math.isfinite(value):
            now = f"epoch {len(self.history) + 1}: the loss became {value}"
            raise ValueError(f"{now}; choose a smaller lr (now {self.config.lr}) or a clip")
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.compressor.parameters(), self.config.clip)
        self.optimizer.step()
        return value

    def _gradient(self, places: list[int]) -> float:
        """Return the loss of a batch and accumulate its gradient in the parameters of every process.

        With several micro-batches, a process runs the forward pass of each twice: the loss depends on the
        logits of the whole batch, which must be known before the gradient of any part.
        """
        lessons = [self._lesson(part) for part in _parts(self.processes.share(places), self.micro_batch)]
        once = len(lessons) == 1
        passed = []
        nothing = torch.zeros(0, 0, device=self.device)
        tally = self.objective.tally(nothing, nothing, nothing.bool())
        with torch.set_grad_enabled(once):
            for lesson in lessons:
                answer = self._answer(lesson)
                tally = tally + self.objective.tally(answer[0], answer[2], answer[4])
                passed += [answer] if once else []
        tally = self.processes.sum(tally)
        self.objective.advance(tally)
        self.optimizer.zero_grad()
        value = torch.zeros((), device=self.device)
        for lesson in lessons:
            loss = self.objective.part(*(passed.pop() if once else self._answer(lesson)), tally)
            loss.backward()
            value = value + loss.detach()
        if self.processes.count > 1:
            for parameter in self.compressor.parameters():
                mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.processes.sum(mine)
        return self.processes.sum(value).item()

    def _lesson(self, places: Sequence[int]) -> TrainingBatch:
        return self.examples.lesson(places, text=self.config.text)

    def _answer(self, lesson: TrainingBatch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of the objective: logits, representations, targets, labels, and valid mask."""
        lesson = lesson.to(self.device)
        logits, hidden = self.compressor(lesson.batch)
        return logits, hidden, lesson.targets, lesson.kept, lesson.batch.valid

    @torch.inference_mode()
    def _agreement(self, compressor: Compressor) -> float:
        """Return the mean recall of held-out labels among as many tokens of highest probability.

        The loss is no alternative: GHM weighs tokens by the whole batch and is not comparable between epochs.
        """
        shares = []
        for places in _parts(self.exam, min(self.config.batch, self.micro_batch)):
            lesson = self._lesson(places).to(self.device)
            logits = compressor(lesson.batch)[0].masked_fill(~lesson.batch.valid, -torch.inf)
            for row, kept in zip(logits, lesson.kept, strict=True):
                shares.append(kept[row.topk(int(kept.sum())).indices].float().mean().item())
        return sum(shares) / len(shares)

    def _record(self, epoch: Epoch) -> None:
        """Write the results of an epoch: the weights if they are the best so far, curves, checkpoint."""
        best = epoch.score > max((earlier.score for earlier in self.history), default=-math.inf)
        if best and self.processes.first:
            noted = {"epoch": epoch.epoch, "score": epoch.score, **self.settings, **self.notes}
            self.compressor.save(self.folder, noted)
        self.history.append(epoch)
        self.losses = []
        if self.processes.first:
            write(self.history, self.folder / CURVES)
        self._save()

    def _save(self) -> None:
        """Write the checkpoint."""
        if not self.processes.first:
            return
        history = [astuple(epoch) for epoch in self.history]
        state: dict[str, Any] = {"settings": self.settings, "history": history, "losses": self.losses}
        if len(self.history) < self.config.epochs:  # a finished run needs no optimiser state
            state["compressor"] = self.compressor.state_dict()
            state["objective"] = self.objective.state_dict()
            state["optimizer"] = self.optimizer.state_dict()
        with replacing(self.folder / CHECKPOINT) as part:
            content = io.BytesIO()  # for an OSError on a full disk; torch.save raises an internal error
            torch.save(state, content)
            part.write_bytes(content.getbuffer())

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            # Weights are written before the first checkpoint: a run that ended in between starts again.
            if (self.folder / CONFIG).exists():
                noted = read_description(self.folder).get("info", {})
                if noted | self.settings != noted:
                    raise ValueError(
                        f"{self.folder} holds a compressor of another origin; choose another folder"
                    )
            return
        regular_file(path)
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
        except OSError:
            raise
        except Exception as problem:  # damaged bytes raise errors of every kind in the unpickler
            why = cut(problem, 100)
            raise ValueError(f"{path}: unreadable ({why}); delete {self.folder} to train again") from problem
        if not isinstance(content, dict):
            raise ValueError(f"{path}: not a checkpoint of training; delete {self.folder} to train again")
        state = checked(_Checkpoint, {key: content.get(key) for key in _Checkpoint.model_fields}, path)
        refuse_difference(self.folder, state.settings, self.settings)
        self.history, self.losses = [Epoch(*row) for row in state.history], list(state.losses)
        done, steps = len(self.history), math.ceil(len(self.study) / self.config.batch)
        whole = done == self.config.epochs
        if done > self.config.epochs or len(self.losses) > (0 if whole else steps):
            raise ValueError(
                f"{path}: {done} epochs and {len(self.losses)} steps are done there, of {self.config.epochs} "
                f"epochs of {steps} steps; delete {self.folder} to train again"
            )
        if whole:
            return
        try:
            self.compressor.load_weights(content["compressor"], str(path))
            self.objective.load_state_dict(content["objective"])
            self.optimizer.load_state_dict(content["optimizer"])
            for weight, moments in self.optimizer.state.items():
                for name, value in moments.items():
                    if value.ndim and value.shape != weight.shape:
                        raise ValueError(f"{name} is {list(value.shape)}, its weight {list(weight.shape)}")
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError) as problem:
            why = cut(problem, 100)
            raise ValueError(
                f"{path}: it does not fit this training ({why}); delete {self.folder} to train again"
            ) from problem


class _Checkpoint(Document):
    """The contents of a checkpoint besides tensors."""

    settings: dict[str, Any]
    history: tuple[tuple[int, float, float, float, float], ...]
    losses: tuple[float, ...]


def _parts(places: Sequence[int], size: int) -> list[Sequence[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _split(examples: Examples, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Split into places of training samples and of held-out samples, by seed and key."""
    if not holdout:
        return list(range(len(examples))), []
    if len(examples) < 2:
        raise ValueError("one labelled sample is not enough: one is held out to choose the checkpoint")
    draws = [hashlib.sha256(f"{seed}/{one.key}".encode()).hexdigest() for one in examples]
    order = sorted(range(len(examples)), key=draws.__getitem__)
    held = min(max(1, round(holdout * len(examples))), len(examples) - 1)
    return sorted(order[held:]), sorted(order[:held])


def _start(decoder: Any, config: TrainConfig) -> Compressor:
    """Return the untrained compressor, determined by the seed; the global random state is unchanged."""
    shape: dict[str, Any] = {
        "text": config.text, "layers": config.layers, "norm": config.norm, "words": config.words,
    }  # fmt: skip
    with drawing(config.seed):
        if config.init == "decoder":
            return Compressor.from_decoder(decoder, **shape)
        return Compressor(decoder.config, **shape)


__all__ = [
    "CHECKPOINT",
    "CURVES",
    "PICTURE",
    "PRESETS",
    "Epoch",
    "TrainConfig",
    "TrainResult",
    "preset",
    "train",
]
