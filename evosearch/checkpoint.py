"""Checkpoints, from which a search resumes with the same result as without the interruption."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

FORMAT = "evosearch checkpoint 2"

# errors that unpickling of arbitrary bytes can raise
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
)


def save(path: Path, configuration: Mapping[str, object], state: object) -> None:
    """Write a checkpoint atomically: after an interruption, `path` holds the old checkpoint or the new one.

    ValueError if the state cannot be pickled.
    """
    content = {"format": FORMAT, "configuration": dict(configuration), "state": _pickled(path, state)}
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
        try:
            pickle.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _pickled(path: Path, state: object) -> bytes:
    try:
        return pickle.dumps(state)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        raise ValueError(
            f"checkpoint {path} cannot hold this search ({problem}): use operators that are functions or "
            f"classes at the top level of a module, or search without a checkpoint"
        ) from problem


def load(path: Path, configuration: Mapping[str, object]) -> object:
    """Return the state saved in `path`; ValueError for other files and for another configuration."""
    try:
        content: Any = pickle.loads(path.read_bytes()) if path.is_file() else None  # a FIFO may never end
        known = isinstance(content, dict) and content.get("format") == FORMAT
    except (*DAMAGE, ValueError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a readable search checkpoint: delete it, or name another file")
    stored = content["configuration"]
    differing = [key for key in (*configuration, *stored) if configuration.get(key) != stored.get(key)]
    if differing:
        listed = "; ".join(
            f"{key} is {stored.get(key, 'not set')} there and {configuration.get(key, 'not set')} here"
            for key in dict.fromkeys(differing)
        )
        raise ValueError(
            f"checkpoint {path} belongs to another search: {listed}. Delete it, or name another file"
        )
    return pickle.loads(content["state"])
