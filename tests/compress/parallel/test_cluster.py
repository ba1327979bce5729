"""The engine ray on a real cluster of two simulated nodes: workers are killed, nodes go and come."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.labels import LabelConfig, label
from compress.models.loading import MLLM, load
from compress.parallel import Cluster, Failure
from compress.samples import Sample

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


class Square:
    """Squares numbers and says where; what goes wrong with some of them is in the tests."""

    machine, forks = "cpu", True

    def __init__(self, folder: Path):
        self.about, self.folder = {"does": "squares"}, folder

    def __call__(self, job: int) -> tuple[int, str]:
        if job == 3:
            raise ValueError("three cannot be squared")
        if job == 5 or (job == 7 and self.first(job)):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 9 and self.first(job):
            raise RuntimeError("the device is in a bad state")
        threading.Event().wait(0.05)
        return job * job, ray.get_runtime_context().get_node_id()

    def first(self, job: int) -> bool:
        marker = self.folder / str(job)
        new = not marker.exists()
        marker.touch()
        return new


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else they starve beside other work
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        nodes = Nodes(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        nodes.add_node(**NODE)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


def test_jobs_survive_killed_workers_and_those_that_kill_are_given_up(cluster: Any, tmp_path: Path) -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for job in range(40):
            taken.append(job)
            yield job

    with Cluster(cluster.address).open(lambda: Square(tmp_path), 2) as crew:
        assert crew.about == {"does": "squares"} and crew.machines == ("cpu",)
        outcomes = crew.each(jobs())
        found = [next(outcomes)]
        assert len(taken) <= 4  # two for each worker: a long list never lies in memory
        found += outcomes
    assert sorted(job for job, _ in found) == list(range(40))  # none lost, none twice
    failures = {job: made.reasons for job, made in found if isinstance(made, Failure)}
    assert set(failures) == {3, 5}
    assert failures[3] == ("three cannot be squared",) * 3
    assert len(failures[5]) == 3 and all("its worker died" in reason for reason in failures[5])
    assert squares(found) == {job: job * job for job in range(40) if job not in (3, 5)}


def test_nodes_go_and_come(cluster: Any, tmp_path: Path) -> None:
    enough, found = False, []
    jobs = itertools.takewhile(lambda job: not enough, itertools.count(10))
    with Cluster(cluster.address).open(lambda: Square(tmp_path), 2) as crew:
        outcomes = crew.each(jobs)

        def work_on(nodes: int) -> None:
            """Until so many nodes have worked in all."""
            while len({node for _, (_, node) in found}) < nodes:
                found.append(next(outcomes))

        work_on(2)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        found += [next(outcomes) for _ in range(10)]  # the one that is left goes on
        cluster.add_node(**NODE)
        work_on(3)
        enough = True
        found += outcomes
    assert squares(found) == {job: job * job for job in range(10, 10 + len(found))}


def squares(found: list[tuple[int, Any]]) -> dict[int, int]:
    return {job: made[0] for job, made in found if not isinstance(made, Failure)}


def test_what_keeps_all_workers_from_starting_is_said(cluster: Any) -> None:
    def broken() -> Square:
        raise ValueError("cannot load model 'llava'")

    with (
        pytest.raises(OSError, match="no worker could start: cannot load model 'llava'"),
        Cluster(cluster.address).open(broken, 1),
    ):
        pass
    with (
        pytest.raises(OSError, match="no place for a worker .*needs 1 CPU and 1 GPUs"),
        Cluster(cluster.address, gpus=1, patience=1).open(broken, 1),
    ):
        pass
    with (
        pytest.raises(OSError, match="cannot reach a Ray cluster at 127.0.0.1:1 "),
        Cluster("127.0.0.1:1").open(broken, 1),
    ):
        pass


def test_a_cluster_of_our_own_is_stopped_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Any) -> None:
        raise TypeError("cannot pickle it")

    calls: list[str] = []
    fake = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **how: calls.append("init"), put=refuse,
        shutdown=lambda: calls.append("shutdown"),
    )  # fmt: skip
    monkeypatch.setattr("compress.parallel.cluster._ray", lambda: fake)
    with pytest.raises(TypeError), Cluster().open(lambda: Square(Path()), 1):
        pass
    assert calls == ["init", "shutdown"]


DRIVER = """
import os, pickle, signal, sys
from compress.parallel import Cluster
from compress.labels import LabelConfig, label
from compress.models.loading import load

def kill(done, total):
    if done >= 3:
        os.kill(os.getpid(), signal.SIGKILL)

model, address, folder = sys.argv[1:]
samples = pickle.load(sys.stdin.buffer)
label(lambda: load(model), samples, folder, LabelConfig(evaluations=48), engine=Cluster(address),
      progress=kill)
"""


def test_labels_are_those_of_this_machine_although_the_driver_is_killed(
    cluster: Any, tiny: MLLM, tiny_folder: Path, pictures: list[Any], tmp_path: Path
) -> None:
    samples = [Sample(f"s{i}", pictures[i % 4], "what color is the ring ?", ("red",)) for i in range(6)]
    config = LabelConfig(evaluations=48)
    command = [sys.executable, "-c", DRIVER, str(tiny_folder), cluster.address, str(tmp_path / "ray")]
    driver = subprocess.run(command, input=pickle.dumps(samples), capture_output=True)
    assert driver.returncode == -signal.SIGKILL, driver.stderr.decode()
    engine = Cluster(cluster.address)
    with pytest.raises(ValueError, match="give a function that does"):
        label(tiny, samples, tmp_path / "ray", config, engine=engine)
    loads = partial(load, str(tiny_folder))
    there = label(loads, samples, tmp_path / "ray", config, workers=2, engine=engine)
    here = label(tiny, samples, tmp_path / "here", config)
    assert rows(there) == rows(here)


def rows(store: Any) -> list[Any]:
    return sorted((replace(one, seconds=0.0) for one in store), key=lambda one: one.id)
