"""A result names the official files that were read; a digest is computed once, and again after a change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bench.data.export import export
from bench.tasks import TASKS, provenance
from bench.tasks.provenance import REMEMBERED, data_facts, digests

NAMES = ("pope", "vqav2", "scienceqa", "ai2d")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    export(folder, NAMES, 12)
    return folder


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_of_a_task_are_named_with_size_and_digest(data: Path) -> None:
    tasks = [TASKS[name](protocol="llava") for name in NAMES]
    told = data_facts(str(data), tasks)
    assert list(told) == [f"data: {name}" for name in NAMES]
    assert told["data: pope"].startswith("split test: pope/coco_pope_adversarial.json, ")
    pope = data / "pope" / "coco_pope_random.json"
    assert f"{pope.stat().st_size:,} bytes, sha256 {sha(pope)}" in told["data: pope"]
    assert "v2_mscoco_val2014_annotations.json" in told["data: vqav2"]  # answers too
    assert {"problems.json", "pid_splits.json"} <= {
        one.split("/")[1].split(",")[0] for one in told["data: scienceqa"].split(": ")[1].split("; ")
    }
    assert "files, " in told["data: ai2d"] and "digest of their names" in told["data: ai2d"]
    assert data_facts(None, tasks) == {}
    assert data_facts("hub:lmms-lab", tasks[:1]) == {"data: pope": "hub:lmms-lab/POPE, split test"}


def test_a_digest_is_computed_once_and_never_stale(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = provenance._digest
    monkeypatch.setattr(provenance, "_digest", lambda path: read.append(path.name) or digest(path))
    first, second = (data / "pope" / f"coco_pope_{name}.json" for name in ("random", "popular"))
    assert {path: one.sha256 for path, one in digests(data, [first]).items()} == {first: sha(first)}
    assert digests(data, [first, second])[second].sha256 == sha(second)
    assert read == [first.name, second.name]
    # Of the same size, but changed since: by its time.
    state = first.stat()
    first.write_bytes(first.read_bytes()[::-1])
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert digests(data, [first, second])[first].sha256 == sha(first)
    # Of the same time, but another size.
    state = first.stat()
    first.write_bytes(first.read_bytes() + b"\n")
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert digests(data, [first, second])[first].sha256 == sha(first)
    assert read == [first.name, second.name, first.name, first.name]


@pytest.mark.parametrize("content", ["{", "[]", '{"pope/coco_pope_random.json": {"size": 1}}'])
def test_a_damaged_memory_is_made_anew(data: Path, content: str) -> None:
    path = data / "pope" / "coco_pope_random.json"
    (data / REMEMBERED).write_text(content)
    assert digests(data, [path])[path].sha256 == sha(path)
    assert list(json.loads((data / REMEMBERED).read_text())) == ["pope/coco_pope_random.json"]


def test_a_folder_that_cannot_be_written_to_needs_no_memory(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(provenance, "replacing", refuse)
    path = data / "pope" / "coco_pope_random.json"
    assert digests(data, [path])[path].sha256 == sha(path)
    assert not (data / REMEMBERED).exists()
