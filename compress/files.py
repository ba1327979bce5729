"""Atomic writes of files and folders, and locks that allow one writing process per folder."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO

from compress.documents import regular_file
from evosearch.registry import cut

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two runs in one folder are not detected
    fcntl = None  # type: ignore[assignment]


def digest_of(parts: Iterable[str | bytes | memoryview]) -> str:
    """The first sixteen hexadecimal digits of SHA-256 over the concatenated parts."""
    digest = sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that replaces it at the end; after an error it is removed.

    An OSError names `target`, since the error of a full disk does not name the file.
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
    """A temporary folder beside `target` that becomes `target` at the end.

    ValueError if `target` exists or another process creates it. After an error the temporary folder is
    removed. An OSError without a file name gets that of `target`.
    """
    if target.exists():
        raise ValueError(f"{target} exists: choose a new folder")
    with locked(target.parent, target.name):
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
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
def locked(folder: Path, name: str = "evocomp", hint: str = "") -> Iterator[None]:
    """Hold an exclusive write lock on a folder until the block or the process ends.

    The lock is the file `.{name}.lock` in the folder. The folder is created if missing and removed afterwards
    if it is still empty. The lock file names its owner. ValueError at once, with `hint` at its end, if
    another process holds the lock. Calls may nest within one process.

    It is a record lock: it ends with its process, is not inherited by forked processes, and works across
    machines if the file system supports that. Without support for such locks, nothing is checked.
    """
    missing = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f".{name}.lock"
    place = os.getpid(), path  # a forked process does not hold its parent's locks
    with ExitStack() as held:
        if missing:
            held.callback(_remove_empty, folder)
        if fcntl and place not in _HELD:
            file = _locked(path, folder, hint)
            if file is not None:
                held.callback(_HELD.discard, place)
                held.callback(file.close)
                held.callback(path.unlink, missing_ok=True)
                _HELD.add(place)
        yield


_HELD: set[tuple[int, Path]] = set()  # locks of this process: closing a second descriptor would release one


def _locked(path: Path, folder: Path, hint: str) -> IO[str] | None:
    """The open file of the lock, which this process now holds; None if the file system has no locks."""
    while True:
        checked = regular_file(path) if path.exists() else path  # opening a FIFO would wait
        file = checked.open("a+", encoding="utf-8", errors="replace")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.close()  # its last owner removed it after it was opened
                continue
            file.truncate(0)
            file.write(_myself())
            file.flush()
            return file
        except OSError as problem:
            with file:
                if problem.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    path.unlink(missing_ok=True)
                    return None
                if problem.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                file.seek(0)
                owner = file.read(500).strip() or "another process"
            raise ValueError(
                f"{folder} is being written to by {owner}: wait until it ends, or choose another folder{hint}"
            ) from problem


def _myself() -> str:
    """A description of this process in one line of at most 300 characters."""
    command = " ".join([Path(sys.argv[0]).name, *map(shlex.quote, sys.argv[1:])]) if sys.argv[0] else "python"
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"process {os.getpid()} on {platform.node() or 'this machine'} since {since} ({cut(command, 200)})\n"
    )


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
