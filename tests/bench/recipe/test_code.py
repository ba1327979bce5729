"""A digest of what code says, not of how it looks, over all that decides a result."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from baselines import METHODS
from bench.recipe import code
from bench.recipe.code import ROOT, code_of, meaning
from bench.recipe.steps import METHOD, Answer, Label, Step, Train

PLAIN = "def f(x):\n    return x + 1\n"
DRESSED = '"""Module."""\n\n\ndef f(x):  # comment\n    """Adds."""\n\n    return (x + 1)\n'


def test_comments_layout_and_docstrings_mean_nothing() -> None:
    assert meaning(PLAIN) == meaning(DRESSED)
    assert meaning(PLAIN) != meaning(PLAIN.replace("1", "2"))


def test_the_digest_follows_the_files_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "ROOT", tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text(PLAIN)

    def digest() -> str:
        code_of.cache_clear()
        return code_of("package")

    first = digest()
    (tmp_path / "package" / "one.py").write_text(DRESSED)
    assert digest() == first
    (tmp_path / "package" / "two.py").write_text("")
    assert digest() != first
    code_of.cache_clear()


ASIDE = {  # what moves, stores, loads or names things, and what a step's facts tell anyway
    "baselines/__init__.py", "bench/batches.py", "evosearch/registry.py", "compress/__init__.py",
    "compress/card.py", "compress/curves.py", "compress/engines/__init__.py", "compress/files.py",
    "compress/hub.py", "compress/memory.py", "compress/models.py", "compress/processes.py",
    "compress/samples.py", "compress/train_config.py",
}  # fmt: skip
LABELS = {"compress/labels/labelling.py", "compress/labels/store.py"}  # the label step's digest is a fact
DATA = {"bench/data/folder.py", "bench/data/images.py"}  # samples' fingerprints are facts
WORLD = {f"compress/micro/{name}.py" for name in ("__init__", "language", "questions", "world")}


def modules(names: Sequence[str]) -> set[Path]:
    """The files at paths as `code_of` takes them."""
    paths = [ROOT / name for name in names]
    return {file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])}


def imported(file: Path) -> Iterator[Path]:
    """Files of the project that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            own = [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
            places = [ROOT.joinpath(*name.split(".")) for name in own]
            yield from (one for path in places for one in (path.with_suffix(".py"), path / "__init__.py"))


def needed(names: Sequence[str]) -> set[str]:
    """What these files import beside each other."""
    inside = modules(names)
    found = {file for one in inside for file in imported(one) if file.is_file()} - inside
    return {file.relative_to(ROOT).as_posix() for file in found}


@pytest.mark.parametrize(
    ("step", "aside"), [(Label, ASIDE), (Train, ASIDE | LABELS), (Answer, ASIDE | DATA | WORLD)]
)
def test_all_that_decides_a_steps_result_is_in_its_digest(step: type[Step], aside: set[str]) -> None:
    assert needed(step.code) <= aside


@pytest.mark.parametrize("name", METHODS)
def test_all_that_a_method_computes_with_is_in_its_key(name: str) -> None:
    own = METHODS[name].__module__.replace(".", "/") + ".py"
    assert needed([own, *METHOD]) <= ASIDE
