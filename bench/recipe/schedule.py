"""The order of a recipe's steps, and their distribution over workers.

A step that divides its own work (labels, answers) uses all workers. A training uses one worker; trainings
that are ready at the same time share the workers with answers that need none of them. With one worker, the
steps run one after the other. The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar

from bench.evaluation.cellwork import Refusal
from bench.recipe.steps import AnswerStep, Step, Trained, TrainJob, TrainStep, Workspace
from compress.files import replacing
from compress.models.loading import MLLM
from compress.parallel.cluster import Cluster
from compress.parallel.engine import Failure, Work, WorkerPool, machine_of
from compress.progress import Bar


def work_off(steps: Sequence[Step], shop: Workspace, bar: Bar) -> None:
    """Do every step after the steps that it needs."""
    if shop.workers == 1:
        for step in steps:
            step.do(bar)
        return
    left = list(steps)
    while left:
        waiting = {(step.digest, step.units) for step in left}
        ready = [one for one in left if not any((need.digest, need.units) in waiting for need in one.needs)]
        trains = [one for one in ready if isinstance(one, TrainStep) and not one.done]
        for step in ready:
            if step not in trains:
                step.do(bar)
        left = [one for one in left if one not in ready]
        answers = [one for one in left if isinstance(one, AnswerStep)]
        for model in dict.fromkeys(one.model for one in trains):
            mine = [one for one in trains if one.model == model]
            early = next((one.early for one in answers if one.model == model), None)
            train_together(mine, early, shop, bar)


def train_together(steps: Sequence[TrainStep], beside: AnswerStep | None, shop: Workspace, bar: Bar) -> None:
    """Train compressors of one model, one worker each; free workers compute the answers of `beside`."""
    trainings = Trainings(steps, shop)
    if beside and not beside.done:
        replace(beside, shop=replace(shop, engine=trainings)).do(bar)
    if not (left := [one for one in steps if not one.done]):
        return
    model = steps[0].model
    make = partial(_Trainer, shop.loader(model) or shop.load(model))
    with bar("train", "trainings") as report, shop.engine.open(make, shop.workers) as crew:
        report(0, len(left))
        with closing(crew.each(trainings.left)) as outcomes:
            for number, (job, outcome) in enumerate(outcomes, 1):
                trainings.took(job, outcome)
                report(number, len(left))


class Trainings:
    """An engine whose workers run trainings before other jobs; otherwise the workspace's engine.

    If a worker is killed, its training resumes in the step's folder. Workers of a cluster may have no access
    to that folder: there, the training starts again, and its files are sent back.
    """

    name: ClassVar[str] = "with trainings"

    def __init__(self, steps: Sequence[TrainStep], shop: Workspace):
        self.engine, self.elsewhere = shop.engine, shop.engine.elsewhere
        self._steps = {step.title: step for step in steps}

    @property
    def left(self) -> list[TrainJob]:
        """The unfinished trainings, as jobs."""
        jobs = [step.job for step in self._steps.values() if not step.done]
        return [replace(job, folder=None) for job in jobs] if isinstance(self.engine, Cluster) else jobs

    @contextmanager
    def open(self, make: Callable[..., Work], workers: int) -> Iterator[WorkerPool]:
        with self.engine.open(partial(_TrainsToo, make), workers) as crew:
            yield _TrainingPool(crew, self)

    def took(self, job: TrainJob, outcome: Trained | Refusal | Failure) -> None:
        """Finish the step of a training; ValueError if the training failed."""
        if isinstance(outcome, Failure):
            outcome = Refusal.after(outcome)
        if isinstance(outcome, Refusal):
            raise ValueError(f"{job.title}: {outcome.reason}")
        step = self._steps[job.title]
        step.folder.mkdir(parents=True, exist_ok=True)
        for name, content in outcome.files.items():
            with replacing(step.folder / name) as part:
                part.write_bytes(content)
        step.note(step.units, outcome.seconds, 1)


@dataclass(frozen=True)
class _TrainingPool:
    """Workers that run the trainings first; results of trainings are not passed to the caller of `each`."""

    crew: WorkerPool
    trainings: Trainings

    @property
    def about(self) -> Mapping[str, Any]:
        return self.crew.about

    @property
    def machines(self) -> tuple[str, ...]:
        return self.crew.machines

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        with closing(self.crew.each(chain(self.trainings.left, jobs))) as outcomes:
            for job, outcome in outcomes:
                if isinstance(job, TrainJob):
                    self.trainings.took(job, outcome)
                else:
                    yield job, outcome


class _Trainer:
    """A worker that only trains."""

    about: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: MLLM | Callable[..., MLLM], **place: str):
        self.mllm = model if isinstance(model, MLLM) else model(**place)
        self.forks = self.mllm.model.device.type == "cpu"
        self.machine = machine_of(self.mllm.model.device)

    def __call__(self, job: TrainJob) -> Trained | Refusal:
        return job.run(self.mllm)


class _TrainsToo:
    """A worker that computes answers, and trains with the same model."""

    def __init__(self, make: Callable[..., Any], **place: str):
        self._work = make(**place)
        self.about, self.forks, self.machine = self._work.about, self._work.forks, self._work.machine

    def __call__(self, job: Any) -> Any:
        return job.run(self._work.mllm) if isinstance(job, TrainJob) else self._work(job)
