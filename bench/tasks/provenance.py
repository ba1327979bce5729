"""Provenance: sizes and digests of the files read from a folder of benchmarks, computed once.

Digests are stored in the folder, in `.evocomp-digests.json`, with a file's name, size and time of last
change; a changed file is read again. If the folder is not writable, all files are read each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.tasks.base import Task, found
from bench.tasks.folder import HUB, Folder
from compress.documents import Document, StoredCount, read, regular_file
from compress.files import digest_of, replacing

REMEMBERED = ".evocomp-digests.json"
NAMED = 8  # maximum number of a task's files that are named one by one
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class FileDigest:
    """A file of a folder of benchmarks; `changed` is the time of its last change in nanoseconds."""

    size: int
    changed: int
    sha256: str


class _Remembered(Document):
    """The content of REMEMBERED."""

    size: StoredCount
    changed: int
    sha256: str


def data_facts(data: str | None, tasks: Iterable[Task]) -> dict[str, str]:
    """Describe the files that tasks read, except pictures, which are in the digests of samples.

    Empty for miniatures (None). Data on the hub are named without digests.
    """
    if data is None:
        return {}
    if data.startswith(HUB):
        return {f"data: {task.name}": f"{data}/{task.repository}, split {task.part}" for task in tasks}
    files = {task: _files(data, task) for task in tasks}
    known = digests(Path(data), [path for listed in files.values() for path in listed])
    facts = {}
    for task, listed in files.items():
        told = _told(Path(data), {path: known[path] for path in listed})
        facts[f"data: {task.name}"] = f"split {task.part}: {told}"
    return facts


def _files(data: str, task: Task) -> list[Path]:
    folder = Folder.of(data, task.name, task.repository)
    if folder.tabular:
        return sorted(found(folder, task.lab_files()))
    return sorted({*found(folder, task.official_files()), *found(folder, task.other_files())})


def _told(root: Path, files: Mapping[Path, FileDigest]) -> str:
    if len(files) <= NAMED:
        named = [
            f"{path.relative_to(root).as_posix()}, {one.size:,} bytes, sha256 {one.sha256}"
            for path, one in files.items()
        ]
        return "; ".join(named)
    total = digest_of(f"{path.relative_to(root).as_posix()} {one.sha256}\n" for path, one in files.items())
    size = sum(one.size for one in files.values())
    return f"{len(files):,} files, {size:,} bytes, digest of their names and sha256 {total}"


def digests(root: Path, files: Iterable[Path]) -> dict[Path, FileDigest]:
    """Digests of files below `root`; files with a stored digest are read only if they have changed."""
    path, before = root / REMEMBERED, dict[str, FileDigest]()
    with suppress(ValueError, FileNotFoundError):  # a damaged file counts as missing
        before = {
            name: FileDigest(one.size, one.changed, one.sha256)
            for name, one in read(dict[str, _Remembered], path).items()
        }
    made: dict[Path, FileDigest] = {}
    for file in files:
        name, state = file.relative_to(root).as_posix(), regular_file(file).stat()
        known = before.get(name)
        if known is None or (known.size, known.changed) != (state.st_size, state.st_mtime_ns):
            known = FileDigest(state.st_size, state.st_mtime_ns, _digest(file))
        made[file] = known
    named = {file.relative_to(root).as_posix(): one for file, one in made.items()}
    if named.items() - before.items():
        merged = {name: asdict(one) for name, one in sorted({**before, **named}.items())}
        with suppress(OSError), replacing(path) as part:
            part.write_text(json.dumps(merged, indent=1) + "\n")
    return made


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
