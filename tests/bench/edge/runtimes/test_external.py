"""Another device: what its command is asked, and what of its answers is believed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.edge.benchmark import EdgeOptions, EdgePlan
from bench.edge.protocol import Protocol
from bench.edge.runtimes.external import Request, ask, measure
from bench.edge.table import rows

PLAN = EdgePlan(EdgeOptions((192, 64), decoded=2, warmup=1, rounds=2), Protocol(), [576, 192, 64], text=64)
REQUEST = Request(576, 64, 40, 128, 256, 1, 2, 1, 2)
GOOD = {
    "format": 1,
    "device": "phone",
    "precision": "W4A16KV8",
    "padded": True,
    "samples": {"vision": [220, 221], "compression": [0, 0], "prefill": [156.5, 156], "decode": [74, 75]},
}
Command = Callable[[str], str]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """A program with this body, which sees the request as `asked`."""

    def make(body: str) -> str:
        file = tmp_path / "device.py"
        file.write_text(f"import json, sys\nasked = json.load(sys.stdin)\n{body}\n")
        return shlex.join([sys.executable, str(file)])

    return make


def answering(command: Command, answer: Any) -> str:
    return command(f"print(json.dumps(json.loads({json.dumps(json.dumps(answer))})))")


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def samples(**changed: Any) -> dict[str, Any]:
    return GOOD | {"samples": GOOD["samples"] | changed}  # type: ignore[operator]


def test_every_budget_is_asked_for_and_becomes_a_row(command: Command, tmp_path: Path):
    log = tmp_path / "log"
    body = f"""
open({str(log)!r}, "a").write(json.dumps(asked) + "\\n")
prefill = [100.0 * asked["chunks"]] * asked["rounds"]
print(json.dumps({GOOD!r} | {{"samples": {GOOD["samples"]!r} | {{"prefill": prefill}}}}))"""
    seen: list[tuple[int, int]] = []
    measured = measure(command(body), PLAN, 60, lambda done, of: seen.append((done, of)))
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert asked[0] == {
        "format": 1, "tokens": 576, "keep": 576, "text": 40, "chunk": 128, "context": 1024, "chunks": 5,
        "decoded": 2, "warmup": 1, "rounds": 2,
    }  # fmt: skip
    assert [(one["keep"], one["context"], one["chunks"]) for one in asked[1:]] == [
        (192, 256, 2),
        (64, 256, 1),
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (measured.runtime, measured.label) == ("phone", "W4A16KV8")
    assert [row.stages["prefill"] for row in rows(measured)] == [500, 200, 100]


def test_a_device_that_does_not_pad_has_no_chunks(command: Command):
    measured = measure(answering(command, GOOD | {"padded": False}), PLAN, 60, lambda *_: None)
    assert [row.chunks for row in rows(measured)] == [None] * 3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([1], "printed list: print one JSON object"),
        (without("device"), "'device' must be a text, not null"),
        (GOOD | {"padded": "yes"}, "'padded' must be true or false"),
        (GOOD | {"format": 2}, "format is 2, this version reads 1"),
        (GOOD | {"wats": 3}, "unknown key 'wats'"),
        (
            GOOD | {"samples": {"prefill": [1, 1]}},
            "'samples' must hold vision, compression, prefill, decode",
        ),
        (samples(decode=[74]), "'decode' must be 2 times in milliseconds"),
        (samples(decode=[74, -1]), "'decode' must be 2 times"),
        (samples(decode=[74, "75"]), "'decode' must be 2 times"),
        (samples(decode=[74, float("nan")]), "'decode' must be 2 times"),
        (samples(decode=[74, 10**400]), "'decode' must be 2 times"),
        (samples(decode=[74, True]), "'decode' must be 2 times"),
        (samples(prefill=[0, 1]), "longer than 0 ms"),
    ],
    ids=str,
)
def test_answers_of_another_form_are_refused(answer: Any, told: str, command: Command):
    with pytest.raises(ValueError, match=told):
        ask(answering(command, answer), REQUEST, 60)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit('no phone is plugged in')", "failed with status 1: no phone is plugged in"),
        ("sys.exit(3)", "failed with status 3: no message"),
        ("print('hello')", "did not print JSON"),
        ("print('[' * 100000)", "did not print JSON .*200 levels"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe')", "printed no text"),
    ],
)
def test_a_command_that_fails_is_told(body: str, told: str, command: Command):
    with pytest.raises(ValueError, match=told):
        ask(command(body), REQUEST, 60)


def test_a_command_that_hangs_is_left(command: Command):
    with pytest.raises(ValueError, match=r"no answer within 0\.2 s: raise --timeout"):
        ask(command("import time; time.sleep(600)"), REQUEST, 0.2)


def test_a_command_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no program no-such-phone"):
        ask("no-such-phone --fast", REQUEST, 60)
    (tmp_path / "plain").write_text("")
    with pytest.raises(ValueError, match="cannot be run .Permission denied"):
        ask(str(tmp_path / "plain"), REQUEST, 60)
    with pytest.raises(ValueError, match="names no command"):
        ask("  ", REQUEST, 60)
    with pytest.raises(ValueError, match="cannot be split into words"):
        ask("'phone", REQUEST, 60)


def test_one_table_is_of_one_device(command: Command):
    body = f"print(json.dumps({GOOD!r} | {{'device': str(asked['keep'])}}))"
    with pytest.raises(ValueError, match=r"'device' differs between budgets \(576, 192, 64\)"):
        measure(command(body), PLAN, 60, lambda *_: None)
