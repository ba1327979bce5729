"""Steps of a recipe by several workers: the same results, in an order that what they need allows."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bench.recipe.estimate import Estimate, in_all
from bench.recipe.plan import Plan, plan
from bench.recipe.schedule import work_off
from bench.recipe.steps import Step, Workspace, answering, training
from compress.models.loading import MLLM
from tests.bench.recipe.test_run import files, quiet, recipe, shop, worked

ROOT = Path(__file__).parents[3]
ROWS: dict[str, Any] = {
    "grid": {"method": "grid"}, "ce": {"train": {"loss": "ce"}},
    "random": {"labels": {"kind": "random"}}, "EvoComp@0": {},
}  # fmt: skip


def planned(mllm: MLLM, folder: Path, **workspace: Any) -> Plan:
    return plan(recipe(rows=ROWS), replace(shop(mllm, folder), **workspace))


def results(folder: Path) -> dict[str, bytes]:
    """All files of results and steps but those that hold times: labels, curves and checkpoints do."""
    timed = ("times.json", "checkpoint.pt", "curves", "labels-")
    return {name: content for name, content in files(folder).items() if not Path(name).name.startswith(timed)}


@pytest.fixture(scope="module")
def serial(tiny: MLLM, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], dict[str, bytes]]:
    """What one worker makes, when it is asked for."""

    @cache
    def made() -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("serial")
        worked(planned(tiny, folder))
        return results(folder)

    return made


def test_two_workers_train_and_answer_together_and_make_the_same_files(
    tiny: MLLM, tmp_path: Path, serial: Callable[[], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    fill = answering.fill

    def noted(mllm: MLLM, prepared: Any, **how: Any) -> None:
        done.append((type(how["engine"]).__name__, len(prepared.keys)))
        fill(mllm, prepared, **how)

    monkeypatch.setattr(answering, "fill", noted)
    worked(planned(tiny, tmp_path, workers=2))
    assert done == [("Trainings", 2), ("Local", 5)]  # grid and vanilla beside the trainings, then all
    made = results(tmp_path)
    assert made.keys() == serial().keys()
    assert [name for name in made if made[name] != serial()[name]] == []
    trains = [one for one in (tmp_path / "steps").iterdir() if one.name.startswith("train-")]
    assert len(trains) == 3


class Noted(Step):
    """A step that only notes that it was done."""

    kind, unit, counted = "label", "samples", "samples"
    model, code, facts = "micro", (), {}  # type: ignore[assignment]
    units = 1

    def __init__(self, name: str, log: list[str], needs: tuple[Step, ...] = ()):
        self.title, self.log, self._needs = name, log, needs
        self.digest = name  # type: ignore[misc]

    @property
    def needs(self) -> tuple[Step, ...]:
        return self._needs

    @property
    def finished(self) -> int:
        return int(self.title in self.log)

    def work(self, report: Any) -> None:
        raise AssertionError

    def do(self, bar: Any) -> bool:
        assert all(need.done for need in self.needs)
        self.log.append(self.title)
        return True


def test_a_step_comes_after_all_that_it_needs_and_once(tmp_path: Path) -> None:
    log: list[str] = []
    first, second = Noted("first", log), Noted("second", log)
    third = Noted("third", log, (first, second))
    fourth = Noted("fourth", log, (third, first))
    made: Any = Workspace(tmp_path, lambda name: None, lambda name: name, workers=2)  # type: ignore[arg-type, return-value]
    work_off([fourth, second, third, first], made, quiet)
    assert sorted(log[:2]) == ["first", "second"] and log[2:] == ["third", "fourth"]


def test_a_training_that_cannot_be_ends_the_run_with_its_reason(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **how: Any) -> None:
        raise ValueError("no labels of that kind")

    monkeypatch.setattr(training, "train", refuse)
    asked = planned(tiny, tmp_path, workers=2)
    with pytest.raises(ValueError, match=r"^train: ce, seed 0: no labels of that kind$"):
        work_off([*asked.stores.values(), *asked.trains.values(), asked.answers], asked.shop, quiet)


def test_trainings_beside_each_other_take_as_long_as_the_longest(tiny: MLLM, tmp_path: Path) -> None:
    asked = planned(tiny, tmp_path, workers=2)
    four = [asked.stores["ce", 0], asked.trains["ce", 0], asked.trains["random", 0], asked.answers]
    told = [
        Estimate(step, 1.0, alone / step.workers, None, alone)
        for step, alone in zip(four, (8.0, 3.0, 4.0, 6.0), strict=True)
    ]
    assert (in_all(told, 1), in_all(told, 2)) == (21, 8 / 2 + 4 + 6 / 2)


DRIVER = """
import sys
from functools import cache
from pathlib import Path
sys.path[:0] = [{root!r}]
from bench.evaluation.opening import Loader
from bench.recipe.plan import plan
from bench.recipe.run import run
from bench.recipe.steps import Workspace
from compress.models.loading import load
from compress.parallel import Devices
from tests.bench.recipe.test_run import quiet, recipe
from tests.bench.recipe.test_schedule import ROWS

if __name__ == "__main__":
    model = load({model!r})
    shop = Workspace(Path({folder!r}), lambda name: model, cache(lambda name: model.fingerprint()), 2,
                     Devices(("cpu", "cpu")), lambda name: Loader({model!r}))
    run(plan(recipe(rows=ROWS), shop), quiet, "evocomp run test")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # drivers and workers import everything
def test_a_driver_that_is_killed_again_and_again_ends_with_the_same_files(
    tiny: MLLM, tiny_folder: Path, tmp_path: Path, serial: Callable[[], dict[str, bytes]]
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(root=str(ROOT), model=str(tiny_folder), folder=str(tmp_path / "runs")))
    runs = tmp_path / "runs"

    def there() -> int:
        return sum(path.is_file() for path in runs.rglob("*")) if runs.is_dir() else 0

    for wanted in (2, 5, 12, 20):  # while it labels, trains, answers beside that, and answers the rest
        driver = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
        while driver.poll() is None and there() < wanted:
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    last = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    drawn = (".png", ".html")  # figures have fewer pixels in this process
    made, wanted_files = results(runs), serial()
    assert made.keys() == wanted_files.keys()
    assert [n for n in made if made[n] != wanted_files[n] and not n.endswith(drawn)] == []
