"""Tables of how much methods depend on the question."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.evaluation.comparison import Comparison
from bench.evaluation.history import put_json
from bench.evaluation.question import COLUMNS, Heard, Sensitivity, measured
from bench.evaluation.stats import Interval
from bench.report.tables import Table
from compress.documents import read

FILE = "questions.json"

HEADER = ("method", "AUC, own question", "AUC, other question", "gain", "overlap", "asked", "area")
NOTES = (
    "AUC: tokens of the things that a question asks about against tokens of other things, by the method's"
    " scores, or by what it keeps where it has none. 0.5 is chance.",
    "Other question: the same tokens, ranked for another question about the image. Gain: the difference.",
    "Overlap: share of kept tokens that are also kept for the other question. Asked: share of kept tokens"
    " that show asked things. Area: their share of all tokens.",
    "± is half of the 95 % interval over images.",
)


def table(found: Mapping[str, Sensitivity], title: str) -> Table:
    """One row per method."""
    rows = [[name, *(_cell(getattr(one, column)) for column in COLUMNS)] for name, one in found.items()]
    return Table(HEADER, rows, NOTES, title)


def by_family(found: Mapping[str, Sensitivity], title: str) -> Table:
    """The AUC for the own question by family of questions, one row per method."""
    families = sorted({family for one in found.values() for family in one.families})
    rows = [[name, *(_cell(one.families.get(family)) for family in families)] for name, one in found.items()]
    return Table(("AUC, own question", *families), rows, (), title)


def of_comparison(comparison: Comparison) -> dict[str, Sensitivity]:
    """Sensitivity by row and task of a comparison with samples; skips tasks with one question per image.

    A comparison stores only kept tokens, so AUCs are those of kept tokens.
    """
    found: dict[str, Sensitivity] = {}
    untouched = [row for row in comparison.rows if row.untouched]
    for row in comparison.rows:
        for task, samples in comparison.samples.items():
            run = comparison.outcomes.get((row.method, row.keep, task))
            whole = next((comparison.outcomes.get((one.method, one.keep, task)) for one in untouched), None)
            if row.untouched or run is None or whole is None or len(run.kept) != len(samples):
                continue
            pairs = zip(run.kept, whole.kept, strict=True)
            heard = [Heard.of(kept, len(every)) for kept, every in pairs]
            with suppress(ValueError):  # one question per image
                found[f"{row.method}, {row.keep}, {task}"] = measured(samples, heard)
    return found


@dataclass(frozen=True)
class _Stored:
    rows: Mapping[str, Sensitivity]


def save(found: Mapping[str, Sensitivity], folder: Path) -> None:
    """Write the results to a comparison's folder, so that reports need no samples; remove an older file."""
    if found:
        put_json(folder / FILE, asdict(_Stored(found)))
    else:
        (folder / FILE).unlink(missing_ok=True)


def read_saved(folder: Path) -> Mapping[str, Sensitivity]:
    """The results that `save` wrote, or nothing; ValueError for another file."""
    try:
        return read(_Stored, folder / FILE).rows
    except FileNotFoundError:
        return {}
    except ValueError as problem:
        raise ValueError(f"{problem}; delete it and compare again, no answer is lost") from problem


def _cell(one: Interval | None) -> str:
    if one is None:
        return "–"
    return f"{one.difference:.2f} ± {(one.high - one.low) / 2:.2f}"
