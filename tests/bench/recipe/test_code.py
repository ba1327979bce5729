"""A digest of what code says, not of how it looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.recipe import code
from bench.recipe.code import code_of, meaning

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
