"""The doctor finds what is broken, and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import doctor
from bench.data.export import export
from bench.doctor import benchmarks, installation, requirements
from tests.cli import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(tmp_path / "data", ["gqa", "pope", "mmbench", "vizwiz"], 8)
    return tmp_path / "data"


def problems(folder: Path, **options: Any) -> list[str]:
    return [f"{f.subject}: {f.detail}" for f in benchmarks(str(folder), **options) if f.state == "problem"]


@pytest.mark.versions
def test_this_installation_is_sound() -> None:
    found = {one.subject: one for one in installation()}
    assert [one for one in found.values() if one.state == "problem"] == []
    assert {"python", "torch", "transformers", "device", "model micro"} <= set(found)


def test_own_packages_are_told_from_others_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {})
    monkeypatch.syspath_prepend(doctor.HOME)
    (found,) = doctor.own_packages()
    assert (found.subject, found.state) == ("packages", "ok") and str(doctor.HOME) in found.detail

    (tmp_path / "compress.py").write_text("")  # beside a user's script
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = doctor.own_packages()
    assert (found.subject, found.state) == ("compress", "note")
    assert found.detail.startswith(f"{tmp_path / 'compress.py'} hides it from programs")

    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"bench": ["evocomp", "frappe-bench"]})
    found, other = (one for one in doctor.own_packages() if one.state == "problem"), doctor.HOME
    assert [(one.subject, one.detail.split(":")[0]) for one in found] == [
        ("bench", "frappe-bench installs a package of the same name")
    ]

    elsewhere = [*doctor.own_packages(tmp_path)]
    assert {(one.subject, one.state) for one in elsewhere} == {(n, "problem") for n in doctor.PACKAGES}
    assert f"comes from {other / 'bench'}, not from evocomp" in elsewhere[-1].detail


def test_requirements_are_told_from_extras() -> None:
    ranges, extras = requirements(["torch<2.14,>=2.11", "Pillow>=11", 'datasets>=3; extra == "hub"'])
    assert set(ranges) == {"torch", "pillow"} and set(extras["hub"]) == {"datasets"}
    assert ranges["torch"].contains("2.13.0+cpu") and not ranges["torch"].contains("2.14")


def test_a_version_out_of_range_and_an_absent_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=99", "deap>=1", 'no-such-library>=3; extra == "more"']
    monkeypatch.setattr(doctor, "requires", lambda name: needs)
    found = {one.subject: one for one in installation()}
    assert found["torch"].state == "problem" and found["deap"].state == "ok"
    assert found["extra more"].state == "note" and "evocomp[more]" in found["extra more"].detail


def test_an_extra_of_the_wrong_version_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ['deap>=1; extra == "a"', 'deap<1; extra == "b"'])
    found = {one.subject: one for one in installation()}
    assert found["extra a"].state == "ok"
    assert found["extra b"].state == "problem" and "needs <1: pip install" in found["extra b"].detail


BROKEN_TORCHVISION = """
import sys
from click.testing import CliRunner
from bench.cli import main
for command in (["doctor"], ["ask", "micro:3", "what color is the star ?"]):
    done = CliRunner().invoke(main, command)
    print(done.exit_code, len(done.stderr.splitlines()), done.output)
"""


@pytest.mark.slow
def test_a_torchvision_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """As PyPI's is beside a torch of another index: transformers fails with it, and so does every command."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator nms does not exist')")
    (tmp_path / "torchvision-0.9.dist-info").mkdir()
    (tmp_path / "torchvision-0.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.9\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_TORCHVISION], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "2 1 " in done.stdout, done.stderr
    assert "torchvision" in done.stdout and "0.9 cannot be imported beside torch" in done.stdout
    assert done.stdout.rstrip().endswith(
        "evocomp: a library cannot be imported (operator nms does not exist): "
        "run evocomp doctor to find out what to repair"
    )


@pytest.mark.parametrize(
    ("models", "state", "detail"),
    [
        (["llava_hf", "evocomp"], "ok", "0.7.3 sees the model evocomp"),
        (["llava_hf"], "problem", "does not see the plug-in of evocomp"),
        (None, "problem", "cannot be imported"),
    ],
    ids=["seen", "not seen", "broken"],
)
def test_lmms_eval_is_asked_whether_it_sees_the_plug_in(
    models: list[str] | None, state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "0.7.3" if name == "lmms_eval" else version(name))

    def import_module(name: str) -> Any:
        if name != "lmms_eval.models":
            return importlib.import_module(name)
        if models is None:
            raise ImportError("no module named 'decord'")
        return SimpleNamespace(list_available_models=lambda: models)

    monkeypatch.setattr(doctor, "import_module", import_module)
    found = {one.subject: one for one in installation()}
    assert found["lmms-eval"].state == state and detail in found["lmms-eval"].detail


def test_unreadable_weights_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    monkeypatch.setattr("compress.models.loading.MODELS", {"cut": tmp_path, "gone": tmp_path / "nowhere"})
    found = {one.subject: one for one in installation()}
    assert found["model cut"].state == "problem" and "cannot be read" in found["model cut"].detail
    assert "make micro" in found["model gone"].detail


def test_whole_data_has_no_problem(folder: Path) -> None:
    assert problems(folder, images=True) == []


def test_sizes_are_held_against_the_published_ones(folder: Path) -> None:
    (folder / "evocomp.json").unlink()
    found = problems(folder)
    assert any("gqa/testdev: 8 samples, but there should be 12,578" in one for one in found)
    assert any("mmbench/dev: 32 samples, but there should be 4,329 or 4,377" in one for one in found)
    assert any("pope/test: 4 random questions, published are 3,000" in one for one in found)


def test_missing_and_broken_images_are_counted(folder: Path) -> None:
    first, second, *_ = sorted((folder / "gqa" / "images").iterdir())
    first.unlink()
    second.write_bytes(b"no image")
    assert problems(folder) == [f"gqa/testdev: 1 images: {first.name} is missing"]
    (opened,) = problems(folder, images=True)
    assert opened.startswith("gqa/testdev: 2 images: ") and "cannot be read as an image" in opened


def test_every_fault_is_told_and_not_only_the_first(folder: Path) -> None:
    path = folder / "vizwiz" / "val.json"
    rows = json.loads(path.read_text())
    rows[1]["image"] = rows[0]["image"]
    rows[2]["answers"] = rows[2]["answers"][:9]
    path.write_text(json.dumps(rows))
    (folder / "pope" / "coco_pope_random.json").unlink()
    (folder / "mmbench" / "MMBench_DEV_EN.tsv").write_text("index\tquestion\n")
    found = "\n".join(problems(folder))
    for words in (
        "1 ids stand for several",
        "'VizWiz_val_",
        "has 9",
        "no coco_pope_random.json",
        "no column A, B",
    ):
        assert words in found


def test_the_command_says_problem_by_its_status(folder: Path) -> None:
    sound = run("doctor", "--data", folder, "--json")
    assert sound.exit_code == 0
    assert {one["state"] for one in json.loads(sound.stdout)} <= {"ok", "note"}
    next((folder / "gqa" / "images").iterdir()).unlink()
    broken = run("doctor", "--data", folder)
    assert broken.exit_code == 2 and "1 images:" in broken.stdout and "1 problem in" in broken.stderr


def test_mistakes(tmp_path: Path) -> None:
    assert run("doctor", "--images").exit_code == 2
    empty = run("doctor", "--data", tmp_path)
    assert empty.exit_code == 2 and "has no sub-folder of a benchmark" in empty.stderr


@pytest.mark.versions
def test_decoding_that_counts_as_another_prefill_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a release of transformers that gives the cache a name nobody reads."""
    assert doctor._compression().state == "ok"
    monkeypatch.setattr("compress.attach.session.cache_in", lambda call: None)
    found = doctor._compression()
    assert found.state == "problem" and "install transformers" in found.detail
