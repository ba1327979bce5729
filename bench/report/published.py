"""Published scores of methods beside scores measured here.

Scores are compared only if they were measured on the same model, benchmark, split and budget, with the
prompts of LLaVA's scripts. Methods must have their default options, and all publications must count their
tokens in the same way: dropped or merged before the decoder, or averaged over its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from baselines import METHODS
from bench.evaluation.comparison import VANILLA
from bench.evaluation.protocol import CODE, Facts, of_method
from bench.report.table import one
from bench.report.tables import Table
from bench.tasks import TASKS
from compress.documents import Document, read
from compress.keep import Keep, count_of

FILE = Path(__file__).with_suffix(".json")
Scores = Mapping[str, float]


class PublishedTable(Document):
    """One table: scores by budget, method and task, in percent. `own` are its authors' methods."""

    source: str
    own: tuple[str, ...]
    vanilla: dict[str, float]
    retain: dict[int, dict[str, dict[str, float]]]


class Publications(Document):
    """The published tables of one model; `splits` are the splits of the benchmarks in all tables."""

    model: str
    visual_tokens: int
    splits: dict[str, str]
    tables: tuple[PublishedTable, ...]


@cache
def publications() -> Publications:
    """The published tables that the package ships."""
    return read(Publications, FILE)


@dataclass(frozen=True)
class MeasuredRow:
    """A row measured here: its name, the facts of its method, its budget, and its scores by task, in %."""

    name: str
    method: Facts
    keep: Keep
    scores: Scores


def beside(rows: Sequence[MeasuredRow], model: str, tokens: int, facts: Facts) -> Table | None:
    """Measured and published scores of the rows that a publication has; None if there are none.

    `facts` are those of the run (`of_task`), with splits and protocols.
    """
    known = publications()
    if Path(model).name != known.model or tokens != known.visual_tokens:
        return None
    tasks = [task for task, split in known.splits.items() if _asked(task, facts) == split]
    lines, sources = [], dict[str, int]()
    for row in rows:
        for table, scores in _published(row, tokens):
            shared = [task for task in tasks if task in scores and task in row.scores]
            if not shared:
                continue
            number = sources.setdefault(table.source, len(sources) + 1)
            pairs = [f"{one(row.scores[t])} ({one(scores[t])})" if t in shared else "" for t in tasks]
            lines.append([row.name, str(row.keep), *pairs, f"[{number}]"])
    if not lines:
        return None
    notes = [
        "Measured, and published in brackets. Publications give no intervals, and may differ in prompts, "
        "kernels and versions.",
        *(f"[{number}] {source}" for source, number in sources.items()),
    ]
    return Table(["row", "keep", *tasks, "source"], lines, notes)


def _asked(task: str, facts: Facts) -> str | None:
    """The split of the official files, if the run used the prompts of LLaVA's scripts; otherwise None."""
    if facts.get(f"{task}: protocol") != "llava":
        return None
    return facts.get(f"{task}: split") or next(iter(TASKS[task].splits))


def _published(row: MeasuredRow, tokens: int) -> Iterator[tuple[PublishedTable, Scores]]:
    name = method_of(row.method)
    for table in publications().tables:
        if name == VANILLA:
            yield table, table.vanilla
        elif name and (found := table.retain.get(count_of(row.keep, tokens), {}).get(name)):
            yield table, found


def method_of(facts: Facts) -> str | None:
    """The name of the method with these facts; None if its options differ from the defaults."""
    for name, kind in METHODS.items():
        if kind.__name__ == facts.get("class"):
            own = _own(name)
            return name if own and all(facts.get(key) == value for key, value in own.items()) else None
    return None


@cache
def _own(name: str) -> dict[str, Any] | None:
    try:
        told = of_method(METHODS[name]())
    except (TypeError, ValueError):  # it needs a compressor, which has no published default
        return None
    return {key: value for key, value in told.items() if key != CODE}
