"""The engine of several devices: processes that are killed, fail, cannot start, and end with the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compress.labels import LabelConfig, label
from compress.models.loading import MLLM, load
from compress.parallel import ATTEMPTS, Devices, Failure
from compress.parallel.workers import new_processes
from compress.samples import Sample
from tests.compress.parallel.squares import square

ROOT = Path(__file__).parents[3]
TWO = Devices(("cpu", "cpu"))


@pytest.mark.slow
def test_jobs_survive_killed_workers_and_those_that_kill_are_given_up(tmp_path: Path) -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for job in range(11):
            taken.append(job)
            yield job

    with TWO.open(partial(square, tmp_path), 2) as crew:
        assert (crew.about, crew.machines) == ({"does": "squares"}, ("cpu",))
        outcomes = crew.each(jobs())
        found = [next(outcomes)]
        assert len(taken) <= 4  # the next one for each worker: a long list never lies in memory
        found += outcomes
    assert sorted(job for job, _ in found) == list(range(11))  # none lost, none twice
    failures = {job: made.reasons for job, made in found if isinstance(made, Failure)}
    assert failures == {
        3: ("three cannot be squared",) * ATTEMPTS,
        5: ("its worker was killed, perhaps for lack of memory",) * ATTEMPTS,
    }
    made = {job: outcome for job, outcome in found if not isinstance(outcome, Failure)}
    assert all(result == job * job for job, (result, _) in made.items())
    # Job 5 took the place of three processes, and after job 9 one was not trusted any more.
    assert os.getpid() not in {process for _, process in made.values()}
    assert not any(Path(f"/proc/{process}").exists() for _, process in made.values())


def test_a_worker_gets_its_next_job_before_its_result_is_looked_at(tmp_path: Path) -> None:
    handed: list[int] = []

    def jobs() -> Iterator[int]:
        for job in (1, 2, 4):
            handed.append(job)
            yield job

    with Devices(("cpu:0",)).open(partial(square, tmp_path), 1) as crew:
        seen = [(job, list(handed)) for job, _ in crew.each(jobs())]
    assert seen == [(1, [1, 2]), (2, [1, 2, 4]), (4, [1, 2, 4])]


def test_with_an_accelerator_each_process_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert new_processes().get_start_method() == "spawn"
    with Devices(("cpu",)).open(partial(square, tmp_path), 1) as crew:
        assert [(job, made[0]) for job, made in crew.each([2, 4])] == [(2, 4), (4, 16)]


def test_jobs_that_fail_are_tried_on_the_other_device_and_given_up_in_the_end(tmp_path: Path) -> None:
    with Devices(("cpu:0", "cpu:1")).open(partial(square, tmp_path), 2) as crew:
        found = dict(crew.each([11, 3, 13, 2]))
        assert (found[11][0], found[2][0]) == (121, 4)
        assert found[3].reasons == ("three cannot be squared",) * ATTEMPTS
        assert "pickle" in found[13].reasons[0]  # what cannot be sent is the job's fault
        (tmp_path / "broken").touch()  # whoever starts from now on cannot load
        with pytest.raises(OSError, match="no worker is left .cannot load a model on cpu:.*; finished"):
            list(crew.each([5]))


def test_devices_that_cannot_work_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with (
        pytest.raises(OSError, match="no worker could start on cpu: cannot load a model on cpu"),
        Devices(("cpu",)).open(partial(square, tmp_path), 1),
    ):
        pass
    for devices, why in {
        (): "name one device or more",
        ("cpu", "cuda:0"): "all of one kind",
        ("gpu",): "devices=gpu: write names as cuda:0,cuda:1",
    }.items():
        with pytest.raises(ValueError, match=why):
            Devices(devices)
    with (
        pytest.raises(ValueError, match="workers=3: there is one for each of the 2 devices"),
        TWO.open(square, 3),
    ):
        pass
    with (
        pytest.raises(ValueError, match="cannot be sent to other processes"),
        TWO.open(lambda device: square(tmp_path, device), 2),
    ):
        pass


DRIVER = """
import signal
import sys
from functools import partial
from pathlib import Path
sys.path[:0] = [{root!r}]
from compress.parallel import Devices
from tests.compress.parallel.squares import square
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    with Devices(("cpu", "cpu")).open(partial(square, Path({folder!r})), 2) as crew:
        for _, (_, process) in crew.each(range(20, 10**6)):
            print(process, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_workers_end_with_their_driver(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(root=str(ROOT), folder=str(tmp_path)))
    driver = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert driver.stdout and driver.stderr
    workers = set()
    while len(workers) < 2:
        workers.add(int(driver.stdout.readline()))
    if end == signal.SIGINT:
        os.killpg(driver.pid, end)  # as Ctrl-C in a terminal: all of them get it
    else:
        driver.kill()
    _, said = driver.communicate()
    assert said.count("Traceback") == (end == signal.SIGINT)  # the driver's own
    for _ in range(100):
        if not any(Path(f"/proc/{one}").exists() for one in workers):
            return
        threading.Event().wait(0.1)
    pytest.fail("workers are left")


@pytest.mark.slow
def test_labels_are_those_of_one_process(
    tiny: MLLM, tiny_folder: Path, pictures: list[Any], tmp_path: Path
) -> None:
    samples = [Sample(f"s{i}", pictures[i % 4], "what color is the ring ?", ("red",)) for i in range(5)]
    config = LabelConfig(evaluations=48)
    with pytest.raises(ValueError, match="engine devices: its workers load the model themselves"):
        label(tiny, samples, tmp_path / "there", config, engine=TWO)
    loads = partial(load, str(tiny_folder))
    there = label(loads, samples, tmp_path / "there", config, engine=TWO, workers=2)
    here = label(tiny, samples, tmp_path / "here", config)
    assert rows(there) == rows(here)


def rows(store: Any) -> list[Any]:
    return sorted((replace(one, seconds=0.0) for one in store), key=lambda one: one.id)
