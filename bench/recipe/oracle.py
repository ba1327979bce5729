"""Upper bounds of selection: masks searched for the same question, or for another one about the same image.

The search sees the gold answer, so a searched mask is not a method; it is the head-room of all methods. A
mask that is searched for one question and used for another shows how much of it depends on the image, and
how much on the question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeFloat

from baselines import Grid
from bench.evaluation.cells import Cell, CellKey, Cells, read_cells
from bench.evaluation.cellwork import CellPart, CellSettings, Entry, Refusal
from bench.evaluation.divided import answering
from bench.evaluation.evaluate import score
from bench.evaluation.protocol import Facts
from bench.evaluation.stats import mean_interval
from bench.recipe.steps import AnswerStep, LabelStep, Step, Workspace
from bench.report.outputs import put
from bench.tasks import Task
from compress.attach.transfer import Choice, Replay
from compress.base import Selector
from compress.documents import Document, read
from compress.keep import Keep, StoredKeep, count_of, in_order
from compress.labels.fitness import AnswerLoss
from compress.models.loading import MLLM
from compress.parallel.workers import each
from compress.progress import Progress
from compress.samples import Sample

FILE = "losses.json"


@dataclass(frozen=True, eq=False)
class SearchStep(Step):
    """Answers with searched masks: those of `labels`, by budget and task."""

    kind = "searched"
    unit = counted = "answers"

    shop: Workspace
    title: str
    row: str
    other: bool  # whether a sample gets the mask of another question about its image
    answers: AnswerStep
    labels: Mapping[tuple[Keep, str], LabelStep]

    @property
    def model(self) -> str:
        return self.answers.name

    @property
    def code(self) -> tuple[object, ...]:
        return type(self), type(self.shop.load(self.model))

    @cached_property
    def facts(self) -> Facts:
        told = [[keep, task, label.digest] for (keep, task), label in self.labels.items()]
        return {"row": self.row, "other": self.other, "answers": dict(self.answers.facts), "labels": told}

    @property
    def units(self) -> int:
        return sum(self.answers.sizes[task] for _, task in self.labels)

    @property
    def finished(self) -> int:
        return sum(self.answers.sizes[cell.key.task] for cell in read_cells(self.folder) if cell.outcome)

    @property
    def workers(self) -> int:
        return self.shop.workers

    @property
    def needs(self) -> Sequence[Step]:
        return list(self.labels.values())

    def work(self, report: Progress) -> None:
        shop, mllm = self.shop, self.shop.load(self.model)
        told = {name: value for name, value in self.answers.facts.items() if name != "vanilla"}
        method = {"class": "Searched", "other": self.other, "adaptive": False, "labels": self.digest}
        cells = Cells(self.folder, told, {self.row: method})
        tasks = {task.name: (task, samples) for task, samples in self.answers.data.items()}
        todo = [key for keep, task in self.labels if not cells.finished(key := CellKey(self.row, keep, task))]
        masks = {(key.keep, key.task): self.masks(key.keep, *tasks[key.task]) for key in todo}
        entry = MaskEntry(self.row, Grid(), masks=masks, tokens=mllm.visual_tokens, grid=mllm.grid)
        batches = replace(shop.batches(self.model), automatic=False)  # a replay needs a fixed order
        settings = CellSettings({self.row: entry}, tasks, batches, "tokens", None)
        done = self.finished
        report(done, self.units)
        with answering(mllm, todo, settings, shop.engine, self.workers, shop.loader(self.model)) as made:
            for key, parts in made:
                if isinstance(parts, Refusal):
                    raise ValueError(f"{self.title}: {parts.reason}")
                task, samples = tasks[key.task]
                cells.add(key, samples, score(mllm, task, samples, parts))
                done += self.answers.sizes[key.task]
                report(done, self.units)

    def masks(self, keep: Keep, task: Task, samples: Sequence[Sample]) -> list[tuple[int, ...]]:
        """The kept tokens of each sample, in the samples' order."""
        step = self.labels[keep, task.name]
        found = [one.kept for one in step.labels()]
        if len(found) < len(samples):
            raise ValueError(
                f"{len(samples) - len(found)} samples of {task.name} have no mask: "
                f"evocomp labels quarantine {step.folder} says why"
            )
        places = partners(samples) if self.other else range(len(samples))
        return [found[place] for place in places]

    def cells(self) -> dict[tuple[str, int], dict[tuple[Keep, str], Cell]]:
        """Cells in the form of `AnswerStep.cells`."""
        return {(self.row, 0): {(cell.key.keep, cell.key.task): cell for cell in read_cells(self.folder)}}


@dataclass(frozen=True)
class MaskEntry(Entry):
    """A row whose kept tokens are given per sample, by budget and task; all images have the same grid."""

    masks: Mapping[tuple[Keep, str], Sequence[Sequence[int]]] = field(default_factory=dict)
    tokens: int = 0  # of an image
    grid: tuple[int, int] = (0, 0)

    def acting(self, part: CellPart) -> Selector:
        masks = self.masks[part.key.keep, part.key.task][part.start : part.stop]
        return Replay(self.selector, (Choice(self.tokens, self.grid, torch.tensor(mask)) for mask in masks))


def partners(samples: Sequence[Sample]) -> list[int]:
    """For each sample, the index of the next sample about the same image; the last one gets the first.

    ValueError if an image has only one question.
    """
    by_image: dict[str, list[int]] = {}
    for place, one in enumerate(samples):
        by_image.setdefault(one.picture_digest, []).append(place)
    lonely = next((places[0] for places in by_image.values() if len(places) < 2), None)
    if lonely is not None:
        raise ValueError(
            f"sample {samples[lonely].id} is alone with its image: `searched: other` needs several questions "
            f"about each image, as the task scenes has them"
        )
    following = {
        place: places[(turn + 1) % len(places)]
        for places in by_image.values()
        for turn, place in enumerate(places)
    }
    return [following[place] for place in range(len(samples))]


@dataclass(frozen=True, eq=False)
class LossesStep(Step):
    """Loss of the gold answer with each row's kept tokens, reduced before the decoder as in the search.

    The loss is not defined for rows that merge tokens or keep another number of them.
    """

    kind = "losses"
    unit = counted = "samples"

    shop: Workspace
    title: str
    answers: AnswerStep
    others: Sequence[SearchStep]

    @property
    def model(self) -> str:
        return self.answers.name

    @property
    def code(self) -> tuple[object, ...]:
        return type(self), type(self.shop.load(self.model))

    @cached_property
    def facts(self) -> Facts:
        rows = [one.name for one in self.answers.candidates]
        searched = [one.digest for one in self.others]
        return {"answers": self.answers.digest, "keeps": list(self.answers.keeps), "rows": rows,
                "searched": searched}  # fmt: skip

    @property
    def units(self) -> int:
        return sum(self.answers.sizes.values())

    @property
    def finished(self) -> int:
        return self.units if (self.folder / FILE).is_file() else 0

    @property
    def forwards(self) -> float:
        return 2.0 + (len(self.answers.candidates) + len(self.others)) * len(self.answers.keeps)

    @property
    def workers(self) -> int:
        return self.shop.here

    @property
    def needs(self) -> Sequence[Step]:
        return [self.answers, *self.others]

    def work(self, report: Progress) -> None:
        mllm = self.shop.load(self.model)
        kept = self._kept()
        found: list[dict[str, object]] = []
        done = 0
        for task, samples in self.answers.data.items():
            jobs = list(range(len(samples)))
            made = dict(each(_Measuring(mllm, samples, kept, task.name), jobs, self.workers))
            rows = {place for one in made.values() for place in one}
            for row, keep in sorted(rows):
                listed = [made[place][row, keep] for place in jobs]
                found.append({"row": row, "keep": keep, "task": task.name, "losses": listed})
            done += len(samples)
            report(done, self.units)
        put(self.folder / FILE, json.dumps(found) + "\n")

    def _kept(self) -> dict[tuple[str, Keep, str], Sequence[Sequence[int]]]:
        """Kept tokens of the first seed of each row, if the row keeps `keep` real tokens of every sample."""
        cells = self.answers.cells()
        for one in self.others:
            cells |= one.cells()
        whole = self.shop.load(self.model).visual_tokens
        seeds = {row: seed for row, seed in sorted(cells, reverse=True)}
        return {
            (row, keep, task): cell.outcome.kept
            for (row, seed), listed in cells.items()
            for (keep, task), cell in listed.items()
            if cell.outcome and seeds[row] == seed
            and all(len(one) == count_of(keep, whole) and min(one) >= 0 for one in cell.outcome.kept)
        }  # fmt: skip

    def read(self) -> dict[tuple[str, Keep], dict[str, list[float]]]:
        """Losses by row and budget, per task and sample."""
        found: dict[tuple[str, Keep], dict[str, list[float]]] = {}
        for one in read_losses(self.folder / FILE):
            found.setdefault((one.row, one.keep), {})[one.task] = list(one.losses)
        return found


class _LossesDocument(Document):
    """Losses of one row, budget and task, by sample."""

    row: str
    keep: StoredKeep
    task: str
    losses: tuple[NonNegativeFloat, ...]


def read_losses(path: Path) -> tuple[_LossesDocument, ...]:
    """The losses that `LossesStep` wrote; ValueError for another file."""
    if not (found := read(tuple[_LossesDocument, ...], path)):
        raise ValueError(f"{path}: the document is an empty list, but it must hold losses")
    return found


@dataclass(frozen=True)
class _Measuring:
    """Computes the losses of one sample, by row and budget."""

    mllm: MLLM
    samples: Sequence[Sample]
    kept: Mapping[tuple[str, Keep, str], Sequence[Sequence[int]]]
    task: str

    def __call__(self, place: int) -> dict[tuple[str, Keep], float]:
        one = self.samples[place]
        picture = one.visual_at(self.mllm.image_side)
        loss = AnswerLoss(self.mllm, self.mllm.embed(picture, one.question, one.answers[0]))
        masks = {key[:2]: listed[place] for key, listed in self.kept.items() if key[2] == self.task}
        by_count: dict[int, list[tuple[str, Keep]]] = {}
        for row, mask in masks.items():
            by_count.setdefault(len(mask), []).append(row)
        return {
            row: float(value)
            for rows in by_count.values()
            for row, value in zip(rows, loss(np.array([masks[row] for row in rows])), strict=True)
        }


def headroom(
    losses: Mapping[tuple[str, Keep], Mapping[str, Sequence[float]]], reference: str, rows: Sequence[str],
    images: Mapping[str, Sequence[str]],
) -> list[dict[str, object]]:  # fmt: skip
    """Mean loss of `rows`, and its excess over the reference's on the same samples, with 95 % intervals.

    `images` are the images of the samples, by task: samples of one image are resampled together.
    """
    lines: list[dict[str, object]] = []
    for row, keep in (
        (row, keep) for keep in in_order(keep for _, keep in losses) for row in rows if (row, keep) in losses
    ):
        tasks = losses[row, keep]
        mine = np.concatenate([tasks[task] for task in tasks])
        told: dict[str, object] = {"row": row, "keep": keep, "loss": float(mine.mean()), "above": None}
        best = losses.get((reference, keep))
        if best and row != reference and best.keys() == tasks.keys():
            gaps = mine - np.concatenate([best[task] for task in tasks])
            told["above"] = asdict(mean_interval(gaps, [one for task in tasks for one in images[task]]))
        lines.append(told)
    return lines
