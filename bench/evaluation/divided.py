"""Cells and evaluations divided among the workers of an engine, which is opened for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial

from baselines import KeepAll
from bench.evaluation.batches import Batches
from bench.evaluation.cells import CellKey
from bench.evaluation.cellwork import CellPart, CellSettings, CellWork, Entry, Refusal, answered
from bench.evaluation.evaluate import AnsweredPart, Outcome, check_reach, largest_image, score
from bench.evaluation.opening import Loader
from bench.evaluation.protocol import Facts, differences, of_model
from bench.tasks import Task
from compress.attach.transfer import check_twins
from compress.base import Selector
from compress.budget import Match
from compress.keep import Keep
from compress.models.loading import MLLM
from compress.parallel.engine import Engine
from compress.parallel.local import Local
from compress.progress import Progress
from compress.samples import Sample

AnsweredCells = Generator[tuple[CellKey, list[AnsweredPart] | Refusal], None, None]


@contextmanager
def answering(
    mllm: MLLM, todo: Sequence[CellKey], settings: CellSettings, engine: Engine, workers: int = 1,
    loads: Loader | None = None, heard: Callable[[CellPart], object] = lambda part: None,
) -> Iterator[AnsweredCells]:  # fmt: skip
    """Yield cells of `todo` as workers finish them (`answered`); the workers are closed after the block.

    Workers on other machines or devices load the same model by `loads`. ValueError if they load another
    model, or for work that they cannot do.
    """
    check_engine(engine, list(settings.entries.values()), loads)
    there = loads if engine.elsewhere else None
    about = of_model(mllm, there.kind if there else None)
    with engine.open(partial(CellWork.made, there or mllm, settings, about), workers) as crew:
        check_workers(crew.about, about)
        with closing(answered(crew, todo, settings, heard)) as made:
            yield made


def evaluate_all(
    mllm: MLLM,
    data: Mapping[Task, Sequence[Sample]],
    selector: Selector | None = None,
    keep: Keep | None = None,
    *,
    batch: int | Batches = 16,
    match: Match = "equivalent",
    source: MLLM | None = None,
    engine: Engine | None = None,
    workers: int = 1,
    loads: Loader | None = None,
    progress: Progress | None = None,
) -> dict[Task, Outcome]:
    """Evaluate one method on several benchmarks as `evaluate` does, by workers, in parts of one batch each.

    Outcomes depend neither on `workers` nor on the `engine` that runs them (default: this machine); each
    worker uses one thread. Workers on other machines or devices load the same model by `loads`. `progress`
    counts answers. ValueError for an impossible budget, and for work that failed three times.
    """
    engine, chosen = engine or Local(), selector or KeepAll()
    budget = mllm.visual_tokens if keep is None else keep
    batches = Batches(batch) if isinstance(batch, int) else batch
    entry = Entry("method", chosen, source)
    check_engine(engine, [entry], loads)
    if source:
        check_twins(source, mllm)
    if match != "flops":  # matched FLOPs are measured, and so solved by the workers
        for samples in data.values():
            check_reach(mllm, chosen, budget, match, partial(largest_image, mllm, samples))
    by_name = {task.name: (task, samples) for task, samples in data.items()}
    settings = CellSettings({entry.name: entry}, by_name, batches, match, None, part=1)
    todo = [CellKey(entry.name, budget, name) for name in by_name]
    total = chosen.draws * sum(map(len, data.values()))
    done = 0

    def count(part: CellPart) -> None:
        nonlocal done
        done += part.stop - part.start
        if progress:
            progress(done, total)

    found: dict[str, Outcome] = {}
    with answering(mllm, todo, settings, engine, workers, loads, count) as made:
        for key, parts in made:
            if isinstance(parts, Refusal):
                raise ValueError(parts.reason)
            found[key.task] = score(mllm, *by_name[key.task], parts)
    return {task: found[task.name] for task in data}


def check_engine(engine: Engine, entries: Sequence[Entry], loads: Loader | None) -> None:
    """ValueError for work that workers on other machines or devices cannot do."""
    if not engine.elsewhere:
        return
    if loads is None:
        raise ValueError(
            f"engine {engine.name}: its workers load the model themselves, so give `loads`, for instance "
            f"Loader('micro')"
        )
    if chosen := next((one for one in entries if one.source), None):
        raise ValueError(
            f"engine {engine.name}: {chosen.name} selects on another model, which only one machine with one "
            f"device can do: leave out --indices-from, or --engine and --devices"
        )


def check_workers(theirs: Facts, ours: Facts) -> None:
    """ValueError if the facts of the workers differ from the facts that the results record."""
    if other := differences(theirs, ours, ("for the workers", "for the driver")):
        raise ValueError(f"the workers do not fit this comparison: {'; '.join(other)}")
