"""Files are written whole, and by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from compress.files import locked, new_folder


def test_a_fifo_as_a_lock_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".evocomp.lock")
    with pytest.raises(ValueError, match="lock: this is a FIFO"), locked(tmp_path):
        pass


def test_a_folder_that_could_not_be_filled_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left.*new'"), new_folder(tmp_path / "new") as part:
        (part / "half").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
