"""A grid of methods, budgets and benchmarks: one row per method and budget, as in the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from baselines import KeepAll
from bench.evaluation.batches import Batches
from bench.evaluation.cells import CellKey, Cells
from bench.evaluation.cellwork import CellSettings, Refusal
from bench.evaluation.cellwork import Entry as Entry
from bench.evaluation.comparison import VANILLA, Comparison, Group, assemble, check_margin
from bench.evaluation.divided import answering, check_engine
from bench.evaluation.evaluate import AnsweredPart, check_reach, largest_image, score, whole_of
from bench.evaluation.opening import Loader
from bench.evaluation.protocol import Facts, of_entry, of_run, of_task
from bench.evaluation.stats import MARGIN
from bench.tasks import Task
from compress.attach.transfer import check_twins
from compress.base import Positions
from compress.budget import Match
from compress.files import locked
from compress.keep import Keep, count_of, read_keep
from compress.models.loading import MLLM
from compress.parallel.engine import Engine
from compress.parallel.local import Local
from compress.progress import Progress
from compress.samples import Sample

DIFFICULTY = "downsample"  # questions that it answers need no better method


def compare(
    mllm: MLLM,
    entries: Sequence[Entry],
    keeps: Sequence[Keep | str | float],
    data: Mapping[Task, Sequence[Sample]],
    *,
    reference: str | None = None,
    difficulty: str | None = DIFFICULTY,
    margin: float = MARGIN,
    batch: int | Batches = 16,
    match: Match = "equivalent",
    positions: Positions | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    loads: Loader | None = None,
    folder: Path | None = None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], object] = lambda text: None,
) -> Comparison:
    """Evaluate vanilla once and every entry at every budget on the same samples.

    `reference` names the entry that all others are compared with, besides vanilla (None: the first entry).
    `difficulty` names the entry whose correct answers mark a question as easy, if it is in the comparison.
    Averages whose interval lies within `margin` points of a rival's are marked as equivalent to it. Budgets
    are counts of visual tokens or ratios of each image's tokens (`compress.keep`); `match` sets their
    meaning. With a `folder` every finished cell is stored there, and computed again only if the code that
    made it has changed (`compress.fingerprint`); `say` reports the number of such cells. `batch` as in
    `evaluate`.

    Results do not depend on `workers`, on the `engine` that runs them (default: this machine; a model on a
    GPU uses one worker), or on interruptions. For workers on other machines or devices `loads` loads the same
    model; `mllm` is then only inspected, and may be on another device.

    Cells stay empty, with the reason, if a method cannot reach the budget or if the work fails three times.
    ValueError if the untouched model fails. ValueError before any computation if entries, budgets or tasks
    are missing, if no method can reach a budget, or if the folder has another protocol or is being written by
    another process.
    """
    prepared = prepare(
        mllm, entries, keeps, data, batch=batch, match=match, positions=positions, engine=engine, loads=loads,
        folder=folder, say=say,
    )  # fmt: skip
    check_margin(margin)
    fill(mllm, prepared, workers=workers, engine=engine, loads=loads, progress=progress)
    return assemble(
        list(data),
        [Group({key: prepared.cells.found[key] for key in prepared.keys}, prepared.tokens)],
        list(dict.fromkeys(key.keep for key in prepared.grid)),
        reference=reference or entries[0].name,
        difficulty=difficulty,
        margin=margin,
        match=match,
        samples={task.name: samples for task, samples in data.items()},
    )


@dataclass(frozen=True)
class PreparedComparison:
    """A comparison before the work: its settings and its cells.

    `whole` are the cells of the untouched model, `grid` all others. `reasons` explain the cells that are
    known to be impossible before anything is measured.
    """

    protocol: Facts
    settings: CellSettings
    cells: Cells
    whole: Sequence[CellKey]
    grid: Sequence[CellKey]
    reasons: Mapping[CellKey, str]
    tokens: int  # visual tokens of the whole image
    folder: Path | None

    @property
    def keys(self) -> list[CellKey]:
        """All cells, in the order in which they are computed."""
        return [*self.whole, *self.grid]


def prepare(
    mllm: MLLM, entries: Sequence[Entry], keeps: Sequence[Keep | str | float],
    data: Mapping[Task, Sequence[Sample]], *, batch: int | Batches = 16, match: Match = "equivalent",
    positions: Positions | None = None, engine: Engine | None = None, loads: Loader | None = None,
    folder: Path | None = None, say: Callable[[str], object] = lambda text: None,
) -> PreparedComparison:  # fmt: skip
    """Do all steps of `compare` that precede the work; nothing is written. ValueError as in `compare`."""
    if not entries or not keeps or not data:
        raise ValueError("nothing to compare: give at least one method, one budget and one task")
    names = [VANILLA, *(one.name for one in entries)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"'{repeated.pop()}' names two rows: give every method a name of its own")
    engine = engine or Local()
    check_engine(engine, entries, loads)
    tokens = whole_of(mllm, data)
    budgets = list(dict.fromkeys(map(read_keep, keeps)))
    for keep in budgets:
        if count_of(keep, tokens) > tokens and not any(task.videos for task in data):  # videos differ in size
            raise ValueError(f"keep={keep}: choose between 1 and the {tokens} visual tokens of this image")
    for one in entries:
        if one.source:
            check_twins(one.source, mllm)
    named = {one.name: one for one in (Entry(VANILLA, KeepAll()), *entries)}
    batches = Batches(batch) if isinstance(batch, int) else batch
    kind = loads.kind if loads and engine.elsewhere else None
    protocol = of_run(mllm, batch=batches.size, match=match, positions=positions, device=kind)
    for task, samples in data.items():
        protocol |= of_task(task, samples)
    facts = {name: of_entry(one.selector, mllm, one.source) for name, one in named.items()}
    cells = Cells(folder, protocol, facts)
    if cells.stale:
        say(f"{folder}: other code made {len(cells.stale)} cells; those of this table are measured again")
    whole = [CellKey(VANILLA, tokens, task.name) for task in data]
    grid = [CellKey(one.name, keep, task.name) for keep in budgets for one in entries for task in data]
    reasons = _out_of_reach(mllm, entries, budgets, data, match)
    _check_any(grid, reasons)
    by_name = {task.name: (task, samples) for task, samples in data.items()}
    settings = CellSettings(named, by_name, batches, match, positions)
    return PreparedComparison(protocol, settings, cells, whole, grid, reasons, tokens, folder)


def fill(
    mllm: MLLM, prepared: PreparedComparison, *, workers: int = 1, engine: Engine | None = None,
    loads: Loader | None = None, progress: Progress = lambda done, total: None,
) -> None:  # fmt: skip
    """Compute the missing cells. ValueError if the untouched model fails, or every cell of the grid."""
    cells, reasons, settings = prepared.cells, prepared.reasons, prepared.settings
    todo = [key for key in prepared.keys if key not in reasons and not cells.finished(key)]
    total = len(prepared.keys)
    done = total - len(todo)
    with ExitStack() as held:
        if prepared.folder:
            held.enter_context(locked(prepared.folder))
        made: Iterator[tuple[CellKey, list[AnsweredPart] | Refusal]] = iter(())
        if todo:
            made = held.enter_context(answering(mllm, todo, settings, engine or Local(), workers, loads))
        for key, reason in reasons.items():
            cells.add(key, (), None, reason)
        progress(done, total)
        for key, found in made:
            task, samples = settings.data[key.task]
            if not isinstance(found, Refusal):
                cells.add(key, samples, score(mllm, task, samples, found))
            elif key.method == VANILLA:
                raise ValueError(found.reason)
            else:
                cells.add(key, (), None, found.reason, failed=found.failed)
            done += 1
            progress(done, total)
    impossible = {key: cell.impossible for key, cell in cells.found.items() if cell.outcome is None}
    _check_any(prepared.grid, impossible)


def _out_of_reach(
    mllm: MLLM, entries: Sequence[Entry], keeps: Sequence[Keep], data: Mapping[Task, Sequence[Sample]],
    match: Match,
) -> dict[CellKey, str]:  # fmt: skip
    """The reasons for cells that are known to be impossible before anything is measured."""
    if match == "flops":
        return {}
    reasons = {}
    for task, samples in data.items():
        largest = cache(partial(largest_image, mllm, samples))
        for keep in keeps:
            for one in entries:
                try:
                    check_reach(mllm, one.selector, keep, match, largest)
                except ValueError as problem:
                    reasons[CellKey(one.name, keep, task.name)] = str(problem)
    return reasons


def _check_any(grid: Sequence[CellKey], impossible: Mapping[CellKey, str]) -> None:
    """ValueError, with every reason, if no cell of the grid is possible."""
    if all(key in impossible for key in grid):
        raise ValueError("; ".join(dict.fromkeys(impossible[key] for key in grid)))
