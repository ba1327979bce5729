"""One process at a time writes to a folder: every command that writes takes its lock, readers do not."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.cli import COMMANDS, main
from bench.commands.options import OutFolder
from bench.evaluation.compressors import SHIPPED
from compress.files import locked, new_folder

HOLD = """
import sys
from pathlib import Path
from compress.files import locked
folder = Path(sys.argv[1])
with locked(folder), locked(folder, "labels"), locked(folder.parent, "new"):
    print("held", flush=True)
    sys.stdin.read()
"""
# Those that take the lock in their own way, or write what several processes share.
OTHERS = {
    "compare --out": "not with --dry-run",
    "run --out": "not with --dry-run",
    "train --out": "the first of its processes",
    "train --cache": "shared, each file written at once",
    "label --out": "one lock per shard",
    "labels merge --out": "new_folder",
    "labels export --out": "new_folder",
}
WRITERS: dict[str, Sequence[str]] = {
    "compare": ["compare", "--out", "FOLDER"],
    "data export": ["data", "export", "--out", "FOLDER"],
    "data records": ["data", "records", "micro", "--out", "a.json", "--images", "FOLDER"],
    "demo": ["demo", "--out", "FOLDER"],
    "edge": ["bench", "edge", "--out", "FOLDER"],
    "edge files": ["bench", "edge", "--files", "FOLDER"],
    "eval": ["eval", "--submission", "FOLDER"],
    "label": ["label", "--out", "FOLDER"],
    "latency": ["bench", "latency", "--out", "FOLDER"],
    "run": ["run", "table5", "--out", "FOLDER"],
    "search": ["search", "micro:1", "what color is the star ?", "--out", "FOLDER"],
    "table": ["report", "FOLDER", "--format", "table", "--out", "FOLDER"],
    "train": ["train", "--labels", "labels", "--out", "FOLDER"],
    "train, several": ["train", "--labels", "labels", "--out", "FOLDER", "--processes", "2"],
}


@dataclass(frozen=True)
class Holder:
    folder: Path
    process: subprocess.Popen[str]


def hold(folder: Path) -> Holder:
    """Another process that holds all locks of a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    return Holder(folder, process)


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holder]:
    found = hold(tmp_path_factory.mktemp("locked") / "folder")
    yield found
    found.process.kill()
    found.process.wait()


def said(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    return result.exit_code, result.stderr


def options(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        for each in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), each)
            assert inner
            yield from options(inner, f"{name} {each}")
        return
    for one in command.params:
        yield f"{name} {one.opts[0]}", one


def test_every_option_that_names_a_folder_to_write_to_locks_it() -> None:
    kinds = {
        name: option.type.locks
        for command, (module, _) in COMMANDS.items()
        for name, option in options(import_module(f"bench.commands.{module}").COMMANDS[command], command)
        if isinstance(option.type, OutFolder)
    }
    assert {name for name, locks in kinds.items() if not locks} == OTHERS.keys()
    assert {"compare --out", "demo --out", "data export --out", "bench latency --out"} <= kinds.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_process_is_refused_at_once_and_told_who_holds_the_folder(
    name: str, holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(holder.folder.iterdir())
    status, line = said(*(str(holder.folder) if one == "FOLDER" else one for one in WRITERS[name]))
    assert status == 2 and line.count("\n") == 1
    assert f"{holder.folder} is being written to by process {holder.process.pid} on " in line
    assert "wait until it ends, or choose another folder" in line
    assert ("divide the samples" in line) == (name == "label")
    assert sorted(holder.folder.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_commands_that_read_are_not_blocked(holder: Holder) -> None:
    for command in ("table", "report"):
        assert "no results here" in said(command, holder.folder)[1]
    assert "is being written to" not in said("labels", holder.folder)[1]
    status, line = said("run", "table5", "--out", holder.folder, "--dry-run", "--only", "CE only")
    assert status == 0, line


def test_a_new_folder_is_made_by_one_process(holder: Holder) -> None:
    with (
        pytest.raises(ValueError, match=f"is being written to by process {holder.process.pid} "),
        new_folder(holder.folder.parent / "new"),
    ):
        pass


def test_the_lock_of_a_dead_process_blocks_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    dead = hold(folder)
    dead.process.kill()
    dead.process.wait()
    (lock,) = folder.glob(".evocomp.lock")
    assert f"process {dead.process.pid} " in lock.read_text()
    with locked(folder):
        assert f"process {os.getpid()} " in lock.read_text()
    assert not lock.exists()


def test_in_one_process_locks_nest_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with locked(folder):
        with locked(folder):
            pass
        result = subprocess.run([sys.executable, "-c", HOLD, folder], capture_output=True, text=True)
        assert f"is being written to by process {os.getpid()} " in result.stderr
    assert not folder.exists()
    with pytest.raises(ZeroDivisionError), locked(folder):
        (folder / "kept").touch()
        raise ZeroDivisionError
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_a_forked_process_does_not_hold_what_its_parent_holds(tmp_path: Path) -> None:
    def enter() -> None:
        with suppress(ValueError), locked(tmp_path):
            os._exit(3)
        os._exit(4)

    with locked(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=enter)
        child.start()
        child.join()
        assert child.exitcode == 4
        assert (tmp_path / ".evocomp.lock").exists()


LABELS = SHIPPED / "micro" / "labels" / "best"
LONG: dict[str, Sequence[object]] = {
    "compare": ("compare", "--methods", "grid", "--keep", 16, "--tasks", "gqa", "-n", 2000),
    "train": ("train", "--labels", LABELS, "--validate", "none", "--epochs", 50),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG)
def test_two_real_runs_do_not_share_a_folder(command: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*map(str, LONG[command]), "--out", str(out)]
    first = subprocess.Popen([sys.executable, "-m", "evocomp", *arguments], stderr=subprocess.PIPE)
    try:
        while not list(out.glob(".evocomp.lock")):
            assert first.poll() is None, first.stderr and first.stderr.read()
            time.sleep(0.05)
        status, line = said(*arguments)
        assert status == 2
        assert f"process {first.pid} on " in line and f"{command} --" in line
        assert first.poll() is None, "the first goes on"
    finally:
        first.kill()
        first.wait()
    with locked(out):
        pass
