"""Writing files so that no half of one is ever seen, and no two processes write the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs in one folder are not told apart there
    fcntl = None  # type: ignore[assignment]


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


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to, which becomes `target` at the end; ValueError if that exists.

    After an error nothing is left. An OSError without a name gets that of `target`.
    """
    if target.exists():
        raise ValueError(f"{target} exists: choose a new folder")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, target)
    except OSError as problem:
        if problem.filename is None:
            problem.filename = str(target)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock that lies at `path` as long as the block, or the process, lasts; BlockingIOError if another
    process holds it.

    A record lock: it is not passed on to forked processes and holds across machines where the file system
    passes on locks.
    """
    if fcntl is None:
        yield
        return
    while True:
        file = path.open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        except BaseException:
            file.close()
            raise
        file.close()  # its last owner removed it between the two lines
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
