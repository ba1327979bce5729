"""One method on benchmarks by workers of any engine: outcomes equal to those of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines.fastv import FastV
from baselines.random import Random
from bench.evaluation.divided import evaluate_all
from bench.evaluation.evaluate import Outcome, evaluate
from bench.evaluation.opening import Loader
from bench.tasks import TASKS, Task
from compress.models.loading import MLLM
from compress.parallel import Cluster, Devices
from compress.samples import Sample
from tests.bench.evaluation.faulty import Choosy, Deadly, Faulty

TASK_NAMES = ("gqa", "pope")


@pytest.fixture(scope="module")
def data() -> dict[Task, list[Sample]]:
    return {task: task.micro(7) for task in (TASKS[name]() for name in TASK_NAMES)}


def told(found: Mapping[Task, Outcome]) -> list[tuple[str, Outcome]]:
    """Without what the clock says."""
    return [(task.name, replace(one, seconds=None)) for task, one in found.items()]


@pytest.mark.parametrize("match", ["equivalent", "flops"])
def test_parts_make_the_outcomes_of_one_evaluation(
    tiny: MLLM, data: Mapping[Task, Sequence[Sample]], match: Any
) -> None:
    selector = Random(draws=2)
    whole = {task: evaluate(tiny, task, samples, selector, 30, batch=2, match=match)
             for task, samples in data.items()}  # fmt: skip
    seen: list[tuple[int, int]] = []
    parts = evaluate_all(tiny, data, selector, 30, batch=2, match=match, progress=lambda *at: seen.append(at))
    assert told(parts) == told(whole)
    assert seen[-1] == (28, 28) and len(seen) == 16  # four batches of each task in each draw
    assert told(evaluate_all(tiny, data, selector, 30, batch=2, match=match, workers=2)) == told(whole)


def test_what_cannot_be_had_is_an_error_with_its_reason(
    tiny: MLLM, data: Mapping[Task, Sequence[Sample]]
) -> None:
    with pytest.raises(ValueError, match="keep=1 is out of reach for FastV"):
        evaluate_all(tiny, data, FastV(layer=6), 1)
    with pytest.raises(ValueError, match="it failed 3 times: RuntimeError: a bad kernel"):
        evaluate_all(tiny, data, Faulty(), 30, batch=2)
    fifth = data[next(iter(data))][4]
    visual = tiny.embed(fifth.visual_at(tiny.image_side), fifth.question, "")
    mean = float(visual.embeds[visual.visual].mean())
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"^a mean of .* is not to my taste$"):
            evaluate_all(tiny, data, Choosy(mean), 30, batch=2, workers=workers)
    with pytest.raises(ValueError, match="engine devices: its workers load the model themselves"):
        evaluate_all(tiny, data, engine=Devices(("cpu",)))


@pytest.mark.slow
@pytest.mark.timeout(900)  # processes import everything
@pytest.mark.parametrize("name", ["devices", "ray"])
def test_other_engines_make_the_same_outcomes_although_a_worker_is_killed(
    tiny: MLLM, tiny_folder: Path, data: Mapping[Task, Sequence[Sample]], tmp_path: Path, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if name == "ray":
        pytest.importorskip("ray")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    calm, marks = tmp_path / "calm", tmp_path / "marks"
    calm.mkdir(), marks.mkdir()
    whole = evaluate_all(tiny, data, Deadly(str(calm), times=0), 30, batch=2)
    engine = Cluster() if name == "ray" else Devices(("cpu", "cpu"))
    loads = Loader(str(tiny_folder))
    selector = Deadly(str(marks))
    made = evaluate_all(tiny, data, selector, 30, batch=2, engine=engine, workers=2, loads=loads)
    assert told(made) == told(whole) and len(list(marks.iterdir())) == 1
