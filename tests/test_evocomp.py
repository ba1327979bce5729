"""The one import: `from evocomp import ...` and `python -m evocomp`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import evocomp

HOME = Path(evocomp.__file__).parent


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(HOME), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize("name", evocomp.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(evocomp, name) is not None


def test_types_and_values_list_the_same_names() -> None:
    tree = ast.parse(Path(evocomp.__file__).read_text(encoding="utf-8"))
    (block,) = (one for one in tree.body if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test))
    typed = {
        alias.asname: (one.module, alias.name)
        for one in block.body
        if isinstance(one, ast.ImportFrom)
        for alias in one.names
    }
    assert typed == evocomp._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        evocomp.atach  # noqa: B018


def test_import_is_light() -> None:
    script = "import sys, evocomp; dir(evocomp); print(*(name.partition('.')[0] for name in sys.modules))"
    loaded = set(run(HOME, "-c", script).stdout.split())
    assert "evocomp" in loaded and not loaded & {"torch", "transformers", "numpy", "deap", "click"}


def test_files_of_the_same_names_beside_a_script_do_not_matter(tmp_path: Path) -> None:
    for name in ("bench", "compress", "baselines", "evosearch"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
    (tmp_path / "mine.py").write_text("from evocomp import Evolution, Grid\nprint(Evolution(), Grid())\n")
    done = run(tmp_path, "mine.py")
    assert "Evolution(" in done.stdout, done.stderr
    assert "Usage: evocomp" in run(tmp_path, "-m", "evocomp", "--help").stdout


def test_another_package_in_our_place_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "compress.py").write_text("")
    done = run(tmp_path, "-c", "import compress, evocomp; evocomp.main()")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"the package 'compress' comes from {tmp_path / 'compress.py'}" in done.stderr
    done = run(tmp_path, "-c", "import compress; from evocomp import attach")
    assert "ImportError: the package 'compress' comes from" in done.stderr
