"""Documents are read without trust: one line names the file, the field, what was found, what is allowed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from compress.documents import (
    Document,
    Positive,
    checked,
    parse,
    parse_json,
    read,
    read_json,
    read_text,
    regular_file,
)


class Part(Document):
    weight: float
    count: Positive


class Whole(Document):
    names: tuple[str, ...]
    parts: Mapping[str, Part]
    kind: Literal["one", "two"] = "one"


@dataclass(frozen=True)
class Plain:
    share: float

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share={self.share}: choose at most 1")


GOOD = {"names": ["a"], "parts": {"p": {"weight": 1, "count": 2}}}


def refused(kind: Any, text: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(kind, text, "there.json")
    assert type(caught.value) is ValueError
    return str(caught.value)


def test_what_is_right_is_read() -> None:
    assert checked(Whole, GOOD, "") == Whole(names=("a",), parts={"p": Part(weight=1.0, count=2)})
    assert checked(Plain, {"share": 0.5}, "") == Plain(0.5)
    assert checked(tuple[int, ...], [1, 2], "") == (1, 2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "not JSON (EOF while parsing an object at line 1 column 1)"),
        ("[" * 100_000, "not JSON (nested more than 200 levels at line 1 column 202)"),
        ("[]", "the document is a list of 0, but it must be settings by name"),
        ('{"names": [1], "parts": {}}', "names[0] is 1, but it must be a text"),
        ('{"names": ["a"]}', "parts is missing"),
        ('{"names": null, "parts": 1}', "names is null, but it must be a list (and 1 more)"),
        ('{"names": [], "parts": {}, "kind": 1}', "kind is 1, but it must be 'one' or 'two'"),
        (
            '{"names": [], "parts": {"p": {"weight": NaN, "count": 1}}}',
            "parts.p.weight is nan, but it must be a finite number",
        ),
        (
            '{"names": [], "parts": {"p": {"weight": 1, "count": 0}}}',
            "parts.p.count is 0, but it must be greater than or equal to 1",
        ),
    ],
)
def test_the_first_error_is_named_in_one_line(text: str, line: str) -> None:
    assert refused(Whole, text) == f"there.json: {line}"


def test_rules_of_a_dataclass_are_told_in_their_own_words() -> None:
    assert refused(Plain, '{"share": 2}') == "there.json: share=2.0: choose at most 1"
    assert refused(Plain, '{"share": "2"}') == "there.json: share is '2', but it must be a number"
    assert refused(dict[str, Plain], '{"a": {"share": 2}}') == "there.json: a: share=2.0: choose at most 1"


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**4000, [[]] * 10**5, {"x" * 10**6: 1}, "\n\x1b[31m"],
    ids=lambda one: type(one).__name__,
)
def test_no_line_is_long_or_in_two(value: object) -> None:
    for text in (
        json.dumps({"names": value, "parts": {}}),
        json.dumps({"names": [], "parts": {"a\n" + "b" * 10**6: value}}),
    ):
        line = refused(Whole, text)
        assert len(line) < 300 and line.isprintable()


def test_a_file_is_read_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(b'\xef\xbb\xbf{"share": 0.5}')
    assert read(Plain, path) == Plain(0.5) and read_json(path) == {"share": 0.5}
    path.write_bytes(b'\n{"share": "caf\xe9"}')
    with pytest.raises(ValueError, match=r"one\.json: not UTF-8 \(.* in line 2, byte 15\)"):
        read_text(path)
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match=r"one\.json: larger than 0 MiB"):
        read_text(path, 4)
    with pytest.raises(ValueError, match="not JSON"):
        parse_json("[1,", path)


@pytest.mark.parametrize("text", ['{"share": 0.1, "share": 0.2}', '{"share": 0.1, "of": [{"a": 1, "a": 1}]}'])
def test_a_name_that_occurs_twice_is_refused(text: str) -> None:
    assert refused(Plain, text).startswith("there.json: not JSON ('")
    assert refused(Any, text).endswith("' occurs twice)")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    for path, kind in [("fifo", "FIFO"), ("socket", "socket"), (".", "folder"), ("/dev/zero", "device")]:
        with pytest.raises(ValueError, match=kind):
            read_text(tmp_path / path)
    with pytest.raises(FileNotFoundError, match="absent"):
        regular_file(tmp_path / "absent")
