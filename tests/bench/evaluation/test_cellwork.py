"""Cells divided among workers of any engine: the same bytes as one process makes, whatever goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random as Draw
from typing import Any

import pytest

from baselines import METHODS
from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.random import Random
from bench.evaluation import cellwork
from bench.evaluation.batches import Batches
from bench.evaluation.cells import CellKey, read_cells
from bench.evaluation.cellwork import CellPart, CellSettings, Refusal, answered
from bench.evaluation.compare import Entry, compare, fill, prepare
from bench.evaluation.compressors import buildable, selector_for
from bench.evaluation.evaluate import AnsweredPart
from bench.evaluation.opening import Loader
from bench.evaluation.protocol import of_method, of_model
from bench.report.forms import markdown
from bench.report.results import results
from bench.speed.cells import Stubs
from bench.tasks import TASKS
from compress.budget import Match
from compress.models.loading import MLLM
from compress.parallel import Cluster, Devices, Failure, Local
from tests.bench.evaluation.faulty import Choosy, Deadly, Faulty

ROOT = Path(__file__).parents[3]
ENTRIES = (Entry("grid", Grid()), Entry("random", Random(draws=3)), Entry("fastv", FastV(layer=6)))


def table(mllm: MLLM, folder: Path, *more: Entry, **options: Any) -> dict[str, bytes]:
    """Cells and tables of a comparison on seven questions."""
    options = {"keeps": (40, 30), "batch": 2, "difficulty": None, **options}
    task = TASKS["gqa"]()
    found = compare(mllm, [*ENTRIES, *more], data={task: task.micro(7)}, folder=folder, **options)
    files = {path.name: path.read_bytes() for path in (folder / "cells").iterdir()}
    told = json.dumps(results(found, {}), default=str)
    return files | {"results.json": told.encode(), "table.md": markdown(found).encode()}


# One process ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("match", ["equivalent", "flops"])
def test_parts_make_the_same_files_as_whole_cells(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, match: Match
) -> None:
    whole = table(tiny, tmp_path / "whole", match=match)
    monkeypatch.setattr(cellwork, "PART", 3)
    assert table(tiny, tmp_path / "parts", match=match) == whole
    assert len(whole) == 2 + 7
    assert table(tiny, tmp_path / "forked", match=match, workers=2) == whole


def test_parts_are_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellwork, "PART", 5)
    task, key = TASKS["gqa"](), CellKey("random", 9, "gqa")
    entries = {"random": Entry("random", Random(draws=2))}
    made = CellSettings(entries, {"gqa": (task, task.micro(10))}, Batches(4), "tokens", None).parts(key)
    assert [part[1:] for part in made] == [(0, 0, 8), (0, 8, 10), (1, 0, 8), (1, 8, 10)]


class Backwards:
    """Gives back first what was handed out last; parts fail or are refused by where they start."""

    about, machines = {}, ("a stub",)

    def __init__(self, refused: tuple[int, ...] = (), fails: int = -1, ahead: int = 3):
        self.refused, self.fails, self.ahead = refused, fails, ahead
        self.asked: list[int] = []

    def each(self, jobs: Any) -> Any:
        left = iter(jobs)
        while handed := [part for _, part in zip(range(self.ahead), left, strict=False)]:
            for part in reversed(handed):
                self.asked.append(part.start)
                yield part, self.made(part)

    def made(self, part: CellPart) -> Any:
        if part.start == self.fails:
            return Failure(("odd", "odd", "out of luck"))
        if part.start in self.refused:
            return Refusal(f"refused {part.start}")
        return AnsweredPart([], [], part.start, 0.0)


def test_parts_come_together_in_order_and_refusals_end_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellwork, "PART", 2)
    task = TASKS["gqa"]()
    keys = [CellKey("grid", keep, "gqa") for keep in (9, 8)]
    settings = CellSettings(
        {"grid": Entry("grid", Grid())}, {"gqa": (task, task.micro(10))}, Batches(2), "tokens", None
    )

    def done(**how: Any) -> tuple[dict[int, Any], list[int]]:
        crew: Any = Backwards(**how)
        return {key.keep: made for key, made in answered(crew, keys, settings)}, crew.asked

    whole, asked = done()
    assert [[one.batch for one in made] for made in whole.values()] == [[0, 2, 4, 6, 8]] * 2
    assert sorted(asked) == sorted([0, 2, 4, 6, 8] * 2)
    refused, asked = done(refused=(4, 2))  # the first reason counts, in whatever order they come
    assert refused == dict.fromkeys((9, 8), Refusal("refused 2")) and 8 not in asked
    failed = Refusal("it failed 3 times: out of luck", failed=True)
    assert done(refused=(4,), fails=2)[0] == dict.fromkeys((9, 8), failed)
    assert done(refused=(8,), ahead=1)[0] == dict.fromkeys((9, 8), Refusal("refused 8"))


def test_a_cell_that_fails_three_times_has_its_reason_and_the_others_go_on(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = table(tiny, tmp_path / "calm")
    found = table(tiny, tmp_path / "one", Entry("faulty", Faulty()))
    ((reason, failed),) = {
        (cell.impossible, cell.failed) for cell in read_cells(tmp_path / "one") if cell.outcome is None
    }
    assert failed
    assert reason.startswith("it failed 3 times: RuntimeError: a bad kernel (faulty.py, line ")
    assert reason in found["table.md"].decode()
    assert {name: one for name, one in calm.items() if name.endswith(".parquet")}.items() <= found.items()
    # It is worth another try, and nothing else is asked again.
    monkeypatch.setattr(Faulty, "select", lambda self, view, keep: Grid().select(view, keep))
    monkeypatch.setattr(Grid, "draws", property(lambda self: 1 / 0), raising=False)
    mended = table(tiny, tmp_path / "one", Entry("faulty", Faulty()))
    assert reason not in mended["table.md"].decode()


def test_a_refusal_of_some_image_is_the_same_in_parts(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifth = TASKS["gqa"]().micro(7)[4]
    visual = tiny.embed(fifth.visual_at(tiny.image_side), fifth.question, "")
    entry = Entry("choosy", Choosy(float(visual.embeds[visual.visual].mean())))
    whole = table(tiny, tmp_path / "whole", entry, keeps=(40,))
    monkeypatch.setattr(cellwork, "PART", 1)
    assert table(tiny, tmp_path / "parts", entry, keeps=(40,), workers=2) == whole
    (said,) = (cell.impossible for cell in read_cells(tmp_path / "whole") if cell.key.method == "choosy")
    assert "not to my taste" in said


def test_what_workers_elsewhere_cannot_do_is_refused_before_they_start(tiny: MLLM, tmp_path: Path) -> None:
    engine, loads = Devices(("cpu", "cpu")), Loader(tiny.name)
    with pytest.raises(ValueError, match="engine devices: its workers load the model themselves, so"):
        table(tiny, tmp_path, engine=engine)
    with pytest.raises(ValueError, match="engine devices: there selects on another model"):
        table(tiny, tmp_path, Entry("there", Grid(), tiny), engine=engine, loads=loads)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", buildable("busy"))
def test_methods_travel(name: str) -> None:
    selector = selector_for(name, "busy")
    again = pickle.loads(pickle.dumps(selector))
    assert of_method(again) == of_method(selector)
    assert type(again) is METHODS[name]


# Other processes --------------------------------------------------------------------------------------------


def killed_once(folder: Path) -> Entry:
    """A method whose first worker is killed."""
    folder.mkdir()
    return Entry("deadly", Deadly(str(folder)))


@pytest.fixture(scope="module")
def whole(tiny: MLLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of one process, with a method that has killed as often as it wants to."""
    folder = tmp_path_factory.mktemp("whole")
    return cells(table(tiny, folder, Entry("deadly", Deadly(str(folder), times=0))))


def cells(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without what names the folder of the marks: cells of that method, and its options in the results."""
    told = json.loads(files["results.json"])
    del told["methods"]["deadly"]
    kept = {name: one for name, one in files.items() if "deadly" not in name}
    return kept | {"results.json": json.dumps(told).encode()}


@pytest.mark.slow
def test_a_worker_that_is_killed_is_not_noticed(
    tiny: MLLM, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellwork, "PART", 3)
    assert cells(table(tiny, tmp_path / "two", killed_once(tmp_path / "marks"), workers=2)) == whole


def waited(mllm: MLLM, folder: Path, workers: int) -> None:
    """A comparison whose workers answer at once and without the model; all else is real."""
    task = TASKS["gqa"]()
    entries = [Entry(f"method {number}", Grid()) for number in range(12)]
    prepared = prepare(mllm, entries, (9, 8), {task: task.micro(12)}, batch=2, folder=folder)
    stubs = Stubs(Local(), of_model(mllm), 0.004, mllm.visual_tokens, mllm.layers)
    fill(mllm, prepared, workers=workers, engine=stubs)


def cell_files(folder: Path) -> list[Path]:
    return list((folder / "cells").glob("*.parquet"))


@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills_at_random_moments_lose_and_double_nothing(
    tiny: MLLM, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellwork, "PART", 4)
    waited(tiny, tmp_path / "whole", 1)
    fork, chance, kills, most = multiprocessing.get_context("fork"), Draw(workers), 0, 0
    while kills < 20:
        run = fork.Process(target=waited, args=(tiny, tmp_path / "cut", workers))
        run.start()
        wanted = len(cell_files(tmp_path / "cut")) + chance.randrange(4)
        while run.exitcode is None and len(cell_files(tmp_path / "cut")) < wanted:
            time.sleep(0.001)
        run.join(chance.uniform(0, 0.03))
        if run.exitcode is None:
            os.kill(run.pid or 0, signal.SIGKILL)
            kills += 1
        run.join()
        assert run.exitcode in (0, -signal.SIGKILL)
        most = max(most, len(read_cells(tmp_path / "cut")))  # every file is whole
        if run.exitcode == 0:  # once all is answered, kill it while it begins again
            shutil.rmtree(tmp_path / "cut")
    waited(tiny, tmp_path / "cut", workers)
    whole, cut = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "cells").iterdir()}
        for name in ("whole", "cut")
    )
    assert cut == whole and len(whole) == 25
    assert most > 5


DRIVER = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.bench.evaluation import test_cellwork as tests
from compress.models.loading import load
from compress.parallel import Cluster, Devices

def kill(done, total):
    if done == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    tests.table(load({model!r}), Path({folder!r}), engine={engine}, loads=tests.Loader({model!r}), workers=2,
                progress=kill)
"""


def stop_driver(moment: int, model: Path, folder: Path, engine: str) -> None:
    code = DRIVER.format(root=str(ROOT), moment=moment, model=str(model), folder=str(folder), engine=engine)
    script = folder.parent / f"driver-{moment}.py"
    script.write_text(code)
    driver = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert driver.returncode == -signal.SIGKILL, driver.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)  # five processes import everything
def test_two_devices_make_the_same_files_although_driver_and_worker_are_killed(
    tiny: MLLM, tiny_folder: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_driver(3, tiny_folder, tmp_path / "two", 'Devices(("cpu", "cpu"))')
    assert 3 <= len(read_cells(tmp_path / "two")) < 7
    monkeypatch.setattr(cellwork, "PART", 3)
    engine, loads = Devices(("cpu", "cpu")), Loader(str(tiny_folder))
    entry = killed_once(tmp_path / "marks")
    assert cells(table(tiny, tmp_path / "two", entry, engine=engine, loads=loads, workers=2)) == whole


@pytest.mark.slow
def test_workers_with_another_model_are_refused(tiny: MLLM, tiny_wide: MLLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers do not fit this comparison: model is '.*' for the work"):
        table(tiny, tmp_path, engine=Devices(("cpu",)), loads=Loader(tiny_wide.name))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def cluster() -> Iterator[str]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), *sys.path])))
        node: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
        nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        yield nodes.address
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)  # five processes import everything
def test_a_cluster_makes_the_same_files_although_driver_and_worker_are_killed(
    tiny: MLLM, tiny_folder: Path, whole: dict[str, bytes], tmp_path: Path, cluster: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stop_driver(3, tiny_folder, tmp_path / "two", f"Cluster({cluster!r})")
    assert 3 <= len(read_cells(tmp_path / "two")) < 7
    monkeypatch.setattr(cellwork, "PART", 3)
    engine, loads = Cluster(cluster), Loader(str(tiny_folder))
    entry = killed_once(tmp_path / "marks")
    assert cells(table(tiny, tmp_path / "two", entry, engine=engine, loads=loads, workers=2)) == whole
