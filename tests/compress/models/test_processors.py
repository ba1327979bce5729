"""Processors read from their parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.models import processors


def test_a_part_that_needs_torchvision_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Library:
        __version__ = "5.17.0"

        def __getattr__(self, name: str):
            raise ModuleNotFoundError(f"Could not import module {name!r}")

    monkeypatch.setattr(processors, "transformers", Library())
    with pytest.raises(ValueError, match="transformers 5.17.0 .* torchvision only: install it, or") as told:
        processors.read(str(tmp_path), "Gemma4Processor", "Gemma4ImageProcessorPil")
    assert "\n" not in str(told.value)
