"""Figures for papers: kept tokens of several runs side by side, groups, searches and trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from PIL.Image import Image

from bench.evaluation.comparison import VANILLA, Comparison
from bench.evaluation.evaluate import Stage
from bench.report.gallery import SampleImage
from bench.report.pictures import INK, LINES, MARKS, MUTED, grouping, overlay, styled
from compress.keep import Keep, budget_name, in_order
from evosearch import Grouping

if TYPE_CHECKING:
    from deap.tools import Logbook
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, PARTLY = "#0b6e5f", "#b23a26", "#8a6100"
SIDE = 1.9  # inches per picture


@dataclass(frozen=True)
class Answered:
    """The result of one run on a sample; `credit` is None if there is no correct answer."""

    method: str
    keep: Keep
    said: str
    credit: float | None
    path: tuple[Stage, ...]


def answered(comparison: Comparison, task: str, sample: str) -> list[Answered]:
    """The results of all runs of a comparison on a sample, vanilla first."""
    found = []
    for row in comparison.rows:
        outcome = comparison.outcomes.get((row.method, row.keep, task))
        if outcome and sample in outcome.samples:
            at = outcome.samples.index(sample)
            found.append(
                Answered(row.method, row.keep, outcome.predictions[at], outcome.correct[at], outcome.path[at])
            )
    return found


def side_by_side(shown: SampleImage, runs: Sequence[Answered]) -> Figure:
    """One sample under several methods (columns) and budgets (rows), as in paper Figures 5 and 6.

    Dropped tokens are grey; merged tokens have a coloured corner. Vanilla has the first column. The answer is
    below each picture.
    """
    whole = next((run for run in runs if run.method == VANILLA), None)
    others = {(run.method, run.keep): run for run in runs if run.method != VANILLA}
    methods = list(dict.fromkeys(method for method, _ in others))
    keeps = in_order(keep for _, keep in others) or [shown.tokens]
    gold = f" ({', '.join(dict.fromkeys(shown.answers))})" if shown.answers else ""
    plain = overlay(shown, None)
    figure, grid = _pictures(len(keeps), 1 + len(methods), plain.size, f"{shown.question}{gold}")
    _draw(grid[0][0], plain, f"all {shown.tokens} tokens", whole)
    for row, keep in enumerate(keeps):
        for column, method in enumerate(methods, 1):
            if run := others.get((method, keep)):
                title = "\n".join(wrap(method, 22)) if row == 0 else ""
                _draw(grid[row][column], overlay(shown, run.path[-1] if run.path else None), title, run)
                if column == 1:
                    grid[row][column].set_ylabel(budget_name(keep), color=MUTED, fontsize=9)
    return figure


def by_question(shown: Sequence[SampleImage], runs: Sequence[Sequence[Answered]]) -> Figure:
    """Several questions about one image: a row each, and a column per method and budget (paper Figure 5).

    `runs` has the results of all runs for each question. The pictures are drawn as in `side_by_side`.
    """
    columns = [dict.fromkeys((run.method, run.keep) for run in own if run.method != VANILLA) for own in runs]
    across = list(dict.fromkeys(key for keys in columns for key in keys))
    several = len({keep for _, keep in across}) > 1
    plain = overlay(shown[0], None)
    figure, grid = _pictures(len(shown), 1 + len(across), plain.size, "")
    for row, (question, own) in enumerate(zip(shown, runs, strict=True)):
        found = {(run.method, run.keep): run for run in own}
        whole = next((run for run in own if run.method == VANILLA), None)
        gold = f" ({', '.join(dict.fromkeys(question.answers))})" if question.answers else ""
        title = "\n".join(wrap(f"{question.question}{gold}", 30))
        _draw(grid[row][0], plain, title, whole)
        for column, key in enumerate(across, 1):
            if run := found.get(key):
                name = f"{key[0]}, {budget_name(key[1])}" if several else key[0]
                picture = overlay(question, run.path[-1] if run.path else None)
                _draw(grid[row][column], picture, "\n".join(wrap(name, 22)) if row == 0 else "", run)
    return figure


def grouped(shown: SampleImage, spaces: Mapping[str, Grouping]) -> Figure:
    """The groups of one image by several groupers, one colour per group (paper Figure 2)."""
    drawn = {name: grouping(shown, space) for name, space in spaces.items()}
    plain = overlay(shown, None)
    figure, (row,) = _pictures(1, 1 + len(drawn), next(iter(drawn.values()), plain).size, shown.question)
    _draw(row[0], plain, f"{shown.tokens} tokens", None)
    for axes, (name, picture) in zip(row[1:], drawn.items(), strict=True):
        _draw(axes, picture, f"{name}: {len(spaces[name].groups)} groups", None)
    return figure


def traces(logbooks: Mapping[str, Sequence[Logbook]], title: str = "", full: float | None = None) -> Figure:
    """Best loss so far over evaluations, with a colour for each strategy and a line for each of its seeds.

    `full` is the loss with all tokens.
    """
    figure, (axes,) = _plots([("evaluations", "best loss so far")], title)
    for number, (name, books) in enumerate(logbooks.items()):
        for seed, book in enumerate(books):
            spent, best = book.select("evaluations", "best")
            axes.step(
                spent, best, where="post", color=LINES[number % len(LINES)], linewidth=1.6,
                marker=MARKS[number % len(MARKS)], markersize=3, label=name if seed == 0 else None,
            )  # fmt: skip
    if full is not None:
        axes.axhline(full, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="all tokens")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def training(curves: Mapping[str, Sequence[Mapping[str, float]]], title: str = "") -> Figure:
    """Loss and validation score of several trainings over epochs; a ring marks the selected epoch."""
    figure, (left, right) = _plots([("epoch", "training loss"), ("epoch", "validation score")], title)
    for number, (name, epochs) in enumerate(curves.items()):
        color = LINES[number % len(LINES)]
        across = [one["epoch"] for one in epochs]
        left.plot(across, [one["loss"] for one in epochs], color=color, linewidth=1.6, label=name)
        right.plot(across, [one["score"] for one in epochs], color=color, linewidth=1.6, label=name)
        best = max(epochs, key=lambda one: one["score"])
        right.plot([best["epoch"]], [best["score"]], "o", color=color, markerfacecolor="none", markersize=9)
    right.legend(frameon=False, labelcolor=INK)
    return figure


def _pictures(rows: int, columns: int, size: tuple[int, int], title: str) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure with axes for pictures of one size."""
    from matplotlib.figure import Figure  # imported late: takes half a second

    width, height = size
    wide, tall = SIDE * max(1.0, width / height), SIDE * max(1.0, height / width)
    figure = Figure(figsize=(columns * wide + 0.6, rows * (tall + 0.35) + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle("\n".join(wrap(title, max(40, 22 * columns))), color=INK, fontsize=11, x=0.01, ha="left")
    return figure, grid.tolist()


def _draw(axes: Axes, picture: Image, title: str, run: Answered | None) -> None:
    axes.set_axis_on()
    axes.imshow(picture, interpolation="none")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, color=MUTED, fontsize=9)
    if run:
        color = INK
        sign = ""
        if run.credit is not None:
            sign = "✓ " if run.credit > 0.9995 else "✗ " if run.credit <= 0 else f"{run.credit:.1f} "
            color = RIGHT if run.credit > 0.9995 else WRONG if run.credit <= 0 else PARTLY
        axes.set_xlabel(sign + "\n".join(wrap(run.said, 28)[:3]), color=color, fontsize=9)


def _plots(labels: Sequence[tuple[str, str]], title: str) -> tuple[Figure, list[Axes]]:
    """Empty plots side by side, with the given labels of the x and y axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if len(labels) == 1 else 4.2 * len(labels), 3.8), layout="constrained")
    plots = figure.subplots(1, len(labels), squeeze=False)[0]
    if title:
        figure.suptitle("\n".join(wrap(title, 60)), color=INK, fontsize=11, x=0.01, ha="left")
    return figure, [styled(axes, x, y) for axes, (x, y) in zip(plots, labels, strict=True)]
