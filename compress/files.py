"""Writing files so that no half of one is ever seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which then takes its place; after an error nothing is left.

    An OSError names `target`: a full disk does not say by itself for which file it was.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror or str(problem), str(target)) from problem
    finally:
        part.unlink(missing_ok=True)
