"""A comparison as one self-contained HTML page, with plots, a browser of samples and how it was made.

The table's other forms come from `bench.forms`.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from math import isqrt
from pathlib import Path
from statistics import pvariance
from typing import TYPE_CHECKING, Any

from bench.comparison import VANILLA, Comparison
from bench.pictures import Grid, seen
from bench.table import (
    blocks,
    hard_header,
    hard_rows,
    headlines,
    marks,
    notes,
    one,
)
from compress.samples import Sample

if TYPE_CHECKING:
    from jinja2 import Template

Curve = tuple[str, bytes | Path]  # title and PNG

PNG = b"\x89PNG\r\n\x1a\n"
SAMPLES = 12  # per task in the browser of samples
PIXELS = 384  # the longest side of its images


def html(
    comparison: Comparison,
    *,
    title: str,
    grid: Grid | None = None,
    facts: Mapping[str, str],
    commands: Sequence[str] = (),
    curves: Sequence[Curve] = (),
    about: Mapping[str, str] | None = None,
    samples: int = SAMPLES,
) -> str:
    """The page: summary, sortable table, plots, samples, ledger, methods, commands and environment.

    It holds all it shows and requests nothing. `grid` is rows x columns of the visual tokens (None: they make
    a square). `facts` are shown as they come, `about` has a line on each method, `curves` are PNGs under
    their titles. `samples` of each task can be browsed: those on which the runs differ most.
    """
    parts = blocks(comparison)
    return _template().render(
        title=title, vanilla=VANILLA, comparison=comparison, blocks=parts, reference=comparison.reference,
        marks=marks, notes=notes(comparison), hard=(hard_header(comparison), hard_rows(comparison)),
        contrasts=_contrasts(comparison),
        metrics={task: comparison.metrics.get(task, "score") for task in comparison.tasks},
        counts={task: len(comparison.samples[task]) for task in comparison.tasks},
        headlines=headlines(comparison), whisker=_Whisker.over(comparison),
        methods=list(dict.fromkeys(row.method for row in comparison.rows)),
        facts=facts, commands=commands, about=about or {},
        curves=[(name, _png_uri(name, picture)) for name, picture in curves],
        ledger=ledger(comparison), browser=browser(comparison, grid, samples),
    )  # fmt: skip


def ledger(comparison: Comparison) -> dict[tuple[str, int], tuple[list[float], str]]:
    """By method and budget: visual tokens entering each layer, mean over tasks, and the same in words."""
    listed = {}
    for row in comparison.rows:
        runs = [comparison.outcomes.get((row.method, row.keep, task)) for task in comparison.tasks]
        layers = [run.entering for run in runs if run]
        means = [sum(column) / len(column) for column in zip(*layers, strict=True)]
        equal = groupby(f"{mean:.1f}".removesuffix(".0") for mean in means)
        words = ", ".join(f"{count} × {len(list(same))}" for count, same in equal)
        if layers:
            listed[row.method, row.keep] = means, words
    return listed


def browser(comparison: Comparison, grid: Grid | None = None, limit: int = SAMPLES) -> dict[str, Any]:
    """What the page's browser of samples needs, ready for JSON.

    Images are stored once each, as small JPEGs. What the runs said, their credit and the tokens they kept
    stand in the order of `runs`, vanilla first (which kept everything: None); a run without answers said
    None.
    """
    rows, columns = _checked(grid, comparison.rows[0].keep)
    runs = [(row.method, row.keep) for row in comparison.rows]
    images: dict[str, int] = {}
    tasks = []
    for task in comparison.tasks:
        outcomes = [comparison.outcomes.get((method, keep, task)) for method, keep in runs]
        credits = [run.correct for run in outcomes if run]
        shown = []
        for place in _telling(comparison.samples[task], list(zip(*credits, strict=True)), limit):
            sample = comparison.samples[task][place]
            image = images.setdefault(_jpeg_uri(sample, (rows, columns)), len(images))
            shown.append(
                {
                    "id": sample.id, "family": sample.family, "question": sample.question, "image": image,
                    "answers": _tally(sample.answers),
                    "said": [run.predictions[place] if run else None for run in outcomes],
                    "credit": [round(run.correct[place], 3) if run else 0 for run in outcomes],
                    "kept": [None, *(list(run.kept[place]) if run else [] for run in outcomes[1:])],
                }
            )  # fmt: skip
        tasks.append({"name": task, "samples": shown})
    named = [{"method": method, "keep": keep} for method, keep in runs]
    return {"grid": [rows, columns], "runs": named, "images": list(images), "tasks": tasks}


def _contrasts(comparison: Comparison) -> list[str]:
    """The rivals, as fields of a row, that the table has a column for."""
    return [name for name in ("vanilla", "reference") if any(getattr(r, name) for r in comparison.rows)]


def _checked(grid: Grid | None, tokens: int) -> Grid:
    rows, columns = grid or (isqrt(tokens), isqrt(tokens))
    if rows * columns != tokens:
        raise ValueError(
            f"{tokens} visual tokens do not fill {rows} x {columns}: give the grid (rows, columns)"
        )
    return rows, columns


def _telling(samples: Sequence[Sample], credits: Sequence[Sequence[float]], limit: int) -> list[int]:
    """Places of the samples whose credit varies most over the runs; no image twice while others are left."""
    ranked = sorted(range(len(samples)), key=lambda place: -pvariance(credits[place]))
    pictures: set[str] = set()
    fresh: list[int] = []
    again: list[int] = []
    for place in ranked:
        content = samples[place].picture_digest
        (again if content in pictures else fresh).append(place)
        pictures.add(content)
    return sorted([*fresh, *again][:limit])


def _tally(answers: Sequence[str]) -> str:
    """`red`, or for annotators who differ `red (8 of 10), pink (2)`."""
    counts = {answer: answers.count(answer) for answer in answers}
    if len(counts) == 1:
        return answers[0]
    (first, most), *others = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join([f"{first} ({most} of {len(answers)})", *(f"{answer} ({n})" for answer, n in others)])


def _jpeg_uri(sample: Sample, grid: Grid) -> str:
    longest = max(grid)
    cell = max(1, min(PIXELS, max(sample.image.size)) // longest)
    file = io.BytesIO()
    seen(sample.image, grid, cell).save(file, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _png_uri(name: str, picture: bytes | Path) -> str:
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f"the curve '{name}' is no PNG: give a PNG file or its bytes")
    return f"data:image/png;base64,{b64encode(content).decode()}"


@dataclass(frozen=True)
class _Whisker:
    """Places on a common scale of all intervals, for the small drawings beside them."""

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


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not at the top: only pages need it

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters["one"] = one
    environment.filters["signed"] = lambda gap: str(gap).replace("-", "−")
    return environment.get_template("report.html.j2")
