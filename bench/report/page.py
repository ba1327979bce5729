"""A comparison as one self-contained HTML page, with plots, a browser of samples, and its origin.

`bench.report.forms` makes the other forms of the table, `bench.report.documents` those of the report.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.evaluation.comparison import VANILLA, Comparison
from bench.evaluation.evaluate import Outcome, Stage
from bench.evaluation.origin import Origin
from bench.evaluation.question import Sensitivity
from bench.report.gallery import Gallery, SampleImage, telling
from bench.report.question import table
from bench.report.table import blocks, hard_header, hard_rows, headlines, marks, notes
from bench.report.templates import data_uri, embedded, template

if TYPE_CHECKING:
    from compress.keep import Keep

SAMPLES = 200  # in the browser of samples, over all tasks


@dataclass(frozen=True)
class Page:
    """The content of a report: figures, pictures of samples, origin, and a line on each method.

    `plots` are PNGs by caption. `samples` is the number of samples in the page's browser, taken evenly from
    all tasks: those on which the runs differ most. `questions` is the dependence of kept tokens on the
    question, by row and task.
    """

    comparison: Comparison
    origin: Origin
    gallery: Gallery
    plots: Mapping[str, bytes]
    about: Mapping[str, str]
    samples: int = SAMPLES
    questions: Mapping[str, Sensitivity] = field(default_factory=dict)


def html(report: Page) -> str:
    """The page: summary, sortable table, plots, samples, ledger, methods, commands and environment.

    It is self-contained and requests nothing.
    """
    comparison, origin = report.comparison, report.origin
    return template("report").render(
        title=origin.title, vanilla=VANILLA, comparison=comparison, blocks=blocks(comparison),
        reference=comparison.reference, marks=marks, notes=notes(comparison),
        hard=(hard_header(comparison), hard_rows(comparison)),
        questions=table(report.questions, "") if report.questions else None,
        contrasts=_contrasts(comparison),
        metrics={task: comparison.metrics.get(task, "score") for task in comparison.tasks},
        counts=counts(comparison), headlines=headlines(comparison), whisker=_Whisker.over(comparison),
        methods=list(dict.fromkeys(row.method for row in comparison.rows)),
        facts=origin.facts, commands=origin.commands, about=report.about,
        plots=embedded(report.plots),
        ledger=ledger(comparison), browser=browser(comparison, report.gallery, report.samples),
    )  # fmt: skip


def counts(comparison: Comparison) -> dict[str, int]:
    """Number of questions of each task."""
    found = {task: outcome for (_, _, task), outcome in reversed(list(comparison.outcomes.items()))}
    return {task: len(found[task].predictions) if task in found else 0 for task in comparison.tasks}


def ledger(comparison: Comparison) -> dict[tuple[str, Keep], tuple[list[float], str]]:
    """By method and budget: visual tokens entering each layer, mean over tasks, as numbers and in words."""
    listed = {}
    for row in comparison.rows:
        runs = [comparison.outcomes.get((row.method, row.keep, task)) for task in comparison.tasks]
        layers = [run.entering for run in runs if run and run.ledger]
        means = [sum(column) / len(column) for column in zip(*layers, strict=True)]
        equal = groupby(f"{mean:.1f}".removesuffix(".0") for mean in means)
        words = ", ".join(f"{count} × {len(list(same))}" for count, same in equal)
        if layers:
            listed[row.method, row.keep] = means, words
    return listed


def browser(comparison: Comparison, gallery: Gallery, limit: int = SAMPLES) -> dict[str, Any]:
    """The data of the page's browser of samples, ready for JSON.

    Pictures, layouts of tokens and sets of tokens are stored once each. Answers, credits and kept tokens are
    in the order of `runs`; a run without an answer has None. The first `untouched` runs are vanilla's, one
    per protocol, which kept everything (None). A stage is [depth, kept, merged, tokens for the whole image].
    """
    runs = [(row.method, row.keep) for row in comparison.rows]
    share = max(1, limit // len(comparison.tasks))
    pictures, layouts, masks = _Once(), _Once(), _Once()
    tasks = []
    for task in comparison.tasks:
        outcomes = [comparison.outcomes.get((method, keep, task)) for method, keep in runs]
        answered = [_answers(run) if run else {} for run in outcomes]
        listed = []
        for shown in _chosen(outcomes, gallery.get(task, {}), share):
            found = [run.get(shown.sample) for run in answered]
            listed.append(
                {
                    "id": shown.sample, "family": shown.family, "question": shown.question,
                    "answers": _tally(shown.answers),
                    "picture": pictures(data_uri("image/jpeg", shown.picture)),
                    "layout": layouts(tuple(tuple(asdict(panel).values()) for panel in shown.panels)),
                    "said": [one and one.said for one in found],
                    "credit": [round(one.credit, 3) if one else 0 for one in found],
                    "kept": [
                        one and ([_stage(stage, shown.tokens, masks) for stage in one.path] or None)
                        for one in found
                    ],
                }
            )  # fmt: skip
        tasks.append({"name": task, "samples": listed})
    return {
        "runs": [{"method": method, "keep": keep} for method, keep in runs],
        "untouched": sum(row.untouched for row in comparison.rows),
        "pictures": list(pictures.found), "layouts": list(layouts.found), "masks": list(masks.found),
        "tasks": tasks,
    }  # fmt: skip


class _Once:
    """Numbers objects; equal objects get the same number."""

    def __init__(self) -> None:
        self.found: dict[Any, int] = {}

    def __call__(self, thing: Any) -> int:
        return self.found.setdefault(thing, len(self.found))


@dataclass(frozen=True)
class _SampleAnswer:
    """The result of one run on one sample."""

    said: str
    credit: float
    path: tuple[Stage, ...]


def _answers(outcome: Outcome) -> dict[str, _SampleAnswer]:
    """The run's results by the sample's id."""
    told = zip(outcome.predictions, outcome.correct, outcome.path, strict=True)
    return {name: _SampleAnswer(*each) for name, each in zip(outcome.samples, told, strict=True)}


def _chosen(
    outcomes: Sequence[Outcome | None], shown: Mapping[str, SampleImage], limit: int
) -> list[SampleImage]:
    """The samples with a picture on which the runs differ most, in the benchmark's order."""
    first = next((run for run in outcomes if run), None)
    if first is None:
        return []
    known = [(name, place) for place, name in enumerate(first.samples) if name in shown]
    alike = [run for run in outcomes if run and run.samples == first.samples]
    credits = [[run.correct[place] for run in alike] for _, place in known]
    listed = [shown[name] for name, _ in known]
    return [listed[place] for place in telling([one.picture for one in listed], credits, limit)]


def _stage(stage: Stage, tokens: int, masks: _Once) -> list[int]:
    kept, merged = ([index for index in some if index >= 0] for some in (stage.kept, stage.merged))
    whole = len(stage.kept) - len(kept)
    return [stage.depth, masks(packed(kept, tokens)), masks(packed(merged, tokens)), whole]


def packed(indices: Sequence[int], tokens: int) -> str:
    """A set of tokens as base64: one bit per token, the first one in the lowest bit of the first byte."""
    bits = np.zeros(tokens, np.uint8)
    bits[list(indices)] = 1
    return b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()


def _contrasts(comparison: Comparison) -> list[str]:
    """The rivals, as field names of a row, that have a column in the table."""
    return [name for name in ("vanilla", "reference") if any(getattr(r, name) for r in comparison.rows)]


def _tally(answers: Sequence[str]) -> str:
    """The answers as text: `red`, or `red (8 of 10), pink (2)` if annotators differ."""
    times = {answer: answers.count(answer) for answer in answers}
    if len(times) < 2:
        return "".join(times)
    (first, most), *others = sorted(times.items(), key=lambda item: -item[1])
    return ", ".join([f"{first} ({most} of {len(answers)})", *(f"{answer} ({n})" for answer, n in others)])


@dataclass(frozen=True)
class _Whisker:
    """Positions on a common scale of all intervals, for the small drawings beside them."""

    low: float
    high: float
    width: int = 72

    @classmethod
    def over(cls, comparison: Comparison) -> _Whisker:
        contrasts = (each for row in comparison.rows for each in (row.vanilla, row.reference))
        gaps = [each.gap for each in contrasts if each and each.gap]
        return cls(min([0.0, *(g.low for g in gaps)]) - 0.5, max([0.0, *(g.high for g in gaps)]) + 0.5)

    def at(self, value: float) -> float:
        return round(self.width * (value - self.low) / (self.high - self.low), 1)
