"""Several comparisons in one table, from their folders on disk; protocols must agree or rows are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.evaluation.cells import Cell, CellKey, read_cells
from bench.evaluation.comparison import VANILLA, Comparison, Group, assemble
from bench.evaluation.protocol import Facts, differences, task_of
from bench.evaluation.stats import MARGIN
from bench.tasks import TASKS
from compress.keep import in_order
from evosearch.registry import find, unknown

PACKAGE = "this package"


@dataclass
class Source:
    """Folders whose cells agree in all facts that matter."""

    folder: str
    protocol: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Facts] = field(default_factory=dict)
    cells: dict[CellKey, Cell] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Read a folder; ValueError if it has no cells, or cells that contradict each other."""
        source = cls(str(folder))
        for cell in read_cells(folder):
            found = cls(str(folder), dict(cell.protocol), {cell.key.method: cell.method}, {cell.key: cell})
            if apart := source.apart(found):
                again = (
                    f". After an update of evocomp, run evocomp compare --out {folder} again "
                    f"with all methods, budgets and tasks, or delete the older files in {folder / 'cells'}"
                )
                raise ValueError(f"{folder} contradicts itself: {'; '.join(apart)}{again}")
            source.add(found)
        if not source.cells:
            raise ValueError(f"{folder}: no results here; give folders that evocomp compare --out wrote")
        return source

    def apart(self, other: Source) -> list[str]:
        """Describe the differences that forbid one table for both."""
        words = f"in {self.folder}", f"in {other.folder}"
        found = differences(self.protocol, other.protocol, words)
        for method, facts in other.methods.items():
            named = differences(self.methods.get(method, {}), facts, words)
            found += [f"{method}: {one}" for one in named]
        for key, cell in other.cells.items():
            twin = self.cells.get(key)
            if (
                twin
                and twin.outcome
                and cell.outcome
                and twin.outcome.predictions != cell.outcome.predictions
            ):
                found.append(
                    f"{key.method} at {key.keep} answers {key.task} differently {' and '.join(words)}"
                )
        return found

    def outdated(self) -> list[str]:
        """The benchmarks that this package scores with another version."""
        tasks = dict.fromkeys(key.task for key in self.cells)
        here = {f"{name}: version": find(TASKS, name, "task").version for name in tasks}
        return differences(self.protocol, here, (f"in {self.folder}", f"in {PACKAGE}"))

    def add(self, other: Source) -> None:
        self.protocol |= other.protocol
        self.methods |= other.methods
        self.cells |= {key: cell for key, cell in other.cells.items() if not self._has(key)}

    def _has(self, key: CellKey) -> bool:
        return key in self.cells and self.cells[key].outcome is not None


def merge(
    folders: Sequence[Path],
    *,
    reference: str | None = None,
    difficulty: str | None = None,
    margin: float = MARGIN,
    mixed: bool = False,
) -> Comparison:
    """Build one comparison from several folders. ValueError, naming each difference, if protocols differ.

    With `mixed` they may differ: rows of another protocol carry a number, are shares of their own vanilla and
    are tested only against rows of their own folder; the comparison lists the differences.
    """
    sources: list[Source] = []
    told: list[str] = []
    for folder in folders:
        new = Source.read(folder)
        outdated = new.outdated()
        apart = [outdated + one.apart(new) for one in sources] or [outdated]
        if not mixed and any(apart):
            found = next(filter(None, apart))
            raise ValueError(f"not comparable: {'; '.join(found)}. Use --mixed to merge them anyway")
        if sources and [] in apart:
            sources[apart.index([])].add(new)
            continue
        sources.append(new)
        if apart[0]:
            told.append(f"[{len(sources)}] {'; '.join(apart[0])}")
    names = dict.fromkeys(key.task for source in sources for key in source.cells)
    facts = {name: value for source in reversed(sources) for name, value in source.protocol.items()}
    tasks = [task_of(name, facts) for name in TASKS if name in names]
    methods = dict.fromkeys(key.method for source in sources for key in source.cells if key.method != VANILLA)
    for option, chosen in (("reference", reference), ("difficulty", difficulty)):
        if chosen is not None and chosen not in methods:
            raise ValueError(f"--{option}: {unknown('method of these results', chosen, methods)}")
    groups = [
        Group(
            _completed(source, [task.name for task in tasks]),
            source.protocol["visual tokens"],
            f"[{number}]" if number > 1 else "",
        )
        for number, source in enumerate(sources, 1)
    ]
    keeps = {key.keep for source in sources for key in source.cells if key.method != VANILLA}
    return assemble(
        tasks,
        groups,
        in_order(keeps),
        reference=reference,
        difficulty=difficulty,
        margin=margin,
        match=sources[0].protocol["match"],
        mixed=told,
    )


def _completed(source: Source, tasks: Sequence[str]) -> dict[CellKey, Cell]:
    """The cells, with an empty one added for each task that a row lacks."""
    cells = dict(source.cells)
    for method, keep in dict.fromkeys(key[:2] for key in source.cells if key.method != VANILLA):
        for task in tasks:
            key = CellKey(method, keep, task)
            if key not in cells:
                cells[key] = Cell(key, {}, source.methods[method], None, "not run")
    return cells
