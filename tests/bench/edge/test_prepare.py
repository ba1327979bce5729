"""A folder of exported files is taken as it is, unless other settings or other code made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.edge import prepare
from bench.edge.bundle import BundleSettings
from bench.edge.prepare import PreparedModel, exported
from bench.edge.reference import TorchBackend


def test_files_of_other_code_are_written_again_and_those_of_other_settings_refused(
    settings: Callable[[str], BundleSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, written = SimpleNamespace(parts=(None, None), decoder=None), []
    for part in "export_vision", "export_compressor":
        monkeypatch.setattr(prepare, part, lambda *given: None)

    def work(precision: str) -> PreparedModel:
        table = np.zeros((2, 2), np.float32)
        return PreparedModel(settings(precision), cast(TorchBackend, reference), table, (4, 4))

    def write(*given: Any) -> None:
        written.append(given)

    first = exported(work("W4A32KV8"), tmp_path, write)
    assert exported(work("W4A32KV8"), tmp_path, write) == first and len(written) == 1
    monkeypatch.setattr(prepare, "fingerprint", lambda *starts: "other")
    with pytest.raises(ValueError, match="precision is W4A32KV8 there and W4A8KV8 here"):
        exported(work("W4A8KV8"), tmp_path, write)
    assert len(written) == 1
    assert exported(work("W4A32KV8"), tmp_path, write).settings.code == "other" and len(written) == 2
