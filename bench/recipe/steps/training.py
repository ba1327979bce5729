"""Training of compressors from labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.evaluation.cellwork import Refusal
from bench.evaluation.protocol import Facts, of_task
from bench.evaluation.validation import Validator
from bench.recipe.steps.base import RECORD, Step, Workspace
from bench.recipe.steps.labelling import LabelStep
from bench.tasks import Task
from compress.compressor.network import Compressor
from compress.keep import NINTH, Keep
from compress.labels import Label
from compress.models.loading import MLLM, MODELS
from compress.parallel.workers import each
from compress.progress import Progress
from compress.samples import Sample
from compress.training.config import FAMILY_PRESETS, paper_settings
from compress.training.features import Where
from compress.training.run import TrainConfig, train

PLACES: dict[Where, str] = {
    "memory": "in memory", "disk": "on disk in --out", "recompute": "computed whenever they are used",
}  # fmt: skip


TEXT = 24.0  # usual text tokens of a prompt


@dataclass(frozen=True)
class Trained:
    """The result of a training: its files, if the worker has no access to the step's folder, and its time."""

    files: Mapping[str, bytes]
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainJob:
    """A training without its model. Without a `folder`, the result is its files, and it cannot be resumed."""

    title: str
    labels: Sequence[Label]
    samples: Sequence[Sample]
    config: TrainConfig
    exam: tuple[Task, Sequence[Sample]] | None
    keep: Keep
    features: Where
    cache: Path | None
    folder: Path | None

    def run(self, mllm: MLLM, report: Progress | None = None) -> Trained | Refusal:
        """Train; return a refusal with the reason if that fails."""
        started = time.perf_counter()
        with ExitStack() as held:
            folder = self.folder or Path(held.enter_context(TemporaryDirectory()))
            try:
                train(
                    mllm, self.labels, self.samples, folder, self.config,
                    validate=Validator(mllm, *self.exam, self.keep) if self.exam else None,
                    features=self.features, cache=self.cache,
                    progress=(lambda stage, done, total: report(done, total)) if report else None,
                )  # fmt: skip
            except ValueError as problem:
                return Refusal(str(problem))
            files = {} if self.folder else {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
        return Trained(files, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class TrainStep(Step):
    """Trains a compressor from labels."""

    kind = "train"
    unit, counted = "samples x epochs", "steps"

    shop: Workspace
    title: str
    labels: LabelStep
    config: TrainConfig
    exam: tuple[Task, Sequence[Sample]] | None = None  # selects the epoch; None: held-out labels

    @property
    def model(self) -> str:
        return self.labels.name

    @property
    def code(self) -> tuple[object, ...]:
        validates = [Validator] if self.exam else []
        return train, type(self.shop.load(self.model)), *validates

    @cached_property
    def facts(self) -> Facts:
        told = {**asdict(self.config), "labels": self.labels.digest, "samples": self.labels.count}
        return {**told, "exam": of_task(*self.exam)} if self.exam else told

    @property
    def keep(self) -> Keep:
        return self.labels.resolved.keep or NINTH

    @property
    def room(self) -> float:
        """Bytes of the samples' features, with two bytes per number and prompts of usual length."""
        mllm = self.shop.load(self.model)
        return 2.0 * self.labels.count * (mllm.visual_tokens + TEXT) * mllm.decoder.config.hidden_size

    @property
    def about(self) -> str:
        """The training settings in words."""
        one, mllm = self.config, self.shop.load(self.model)
        whose = "the miniature's settings"
        if mllm.name not in MODELS:
            theirs = replace(paper_settings(mllm.model.config.model_type), seed=one.seed)
            whose = f"the paper's for {FAMILY_PRESETS[mllm.model.config.model_type]}"
            if one != theirs:
                other = [name for name, value in asdict(one).items() if value != asdict(theirs)[name]]
                whose += f" but for {', '.join(other)}"
        chosen = "held-out labels"
        if self.exam:
            chosen = f"{len(self.exam[1])} samples of {self.exam[0].name} ({self.exam[0].protocol})"
        regions = f"{one.bins} regions" + (", divided by all" if one.normalise_by == "bins" else "")
        return (
            f"{one.epochs} epochs, batch {one.batch}, lr {one.lr:g}, {one.loss}, lambda {one.lambda_cos:g}, "
            f"{regions} ({whose}); labels of {self.keep}; the epoch is chosen on {chosen}; features "
            f"{PLACES[self.shop.features]}, about {self.room / 1e9:.1f} GB"
        )

    @property
    def units(self) -> int:
        return self.config.epochs * self.labels.count

    @property
    def finished(self) -> int:
        return self.units if (self.folder / RECORD).is_file() else 0

    @property
    def needs(self) -> Sequence[Step]:
        return (self.labels,)

    @property
    def job(self) -> TrainJob:
        """The training as a job for a worker of this machine, in the step's folder."""
        disk = self.shop.features == "disk"
        return TrainJob(
            self.title, self.labels.labels(), self.labels.samples, self.config, self.exam, self.keep,
            self.shop.features, self.shop.folder / "features" if disk else None, self.folder,
        )  # fmt: skip

    def work(self, report: Progress) -> None:
        done = each(partial(self.job.run, self.shop.load(self.model)), [report])  # with one thread
        for _, outcome in done:
            if isinstance(outcome, Refusal):
                raise ValueError(outcome.reason)

    def compressor(self) -> Compressor:
        return Compressor.from_pretrained(str(self.folder))
