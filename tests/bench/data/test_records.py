"""A long array is read in pieces, with the bytes where each record lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.data import records
from bench.data.records import read, scan, write

TEXT = ' [ {"a": "x,]"} ,\n{"b": [1, "Straße 😀"]},{"c": "\\"}"}\n] '


@pytest.mark.parametrize("chunk", [1, 3, 7, 1 << 20])
def test_every_record_is_found_and_read_again_where_it_lies(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(TEXT, encoding="utf-8")
    found = list(scan(path))
    assert [record for _, _, record in found] == json.loads(TEXT)
    assert [read(path, start, length) for start, length, _ in found] == json.loads(TEXT)
    assert path.read_bytes()[found[1][0] :][: found[1][1]].decode() == '{"b": [1, "Straße 😀"]}'


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert write(path, iter([{"a": "é"}, {"b": 2}])) == 2
    assert json.loads(path.read_text()) == [{"a": "é"}, {"b": 2}] == [one for *_, one in scan(path)]
    assert write(path, []) == 0 and list(scan(path)) == []


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "a.json", (1 // n for n in (1, 0)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}', "not a JSON array"),
        (b"", "the array has no end"),
        (b'[{"a": 1}, {"b"', r"the array has no end \(byte 11: "),
        (b'[{"a": 1}, {b: 2}, {"c": 3}', "byte 11"),
        (b'["\xff\xfe"]', "not UTF-8"),
        (b'[{"a": 1, "a": 2}]', r"the record at byte 1 cannot be read \('a' occurs twice\)"),
        (b'[{"a": 1}]\n[{"a": 2}]', "something stands behind the array"),
        (b"[" * 100_000 + b"]" * 100_000, "the record at byte 1 cannot be read"),
        (b"[" + b"9" * 5000 + b"]", "the record at byte 1 cannot be read"),
    ],
)
def test_what_is_no_whole_array_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json: .*{said}|a.json: {said}"):
        list(scan(tmp_path / "a.json"))


def test_a_broken_record_does_not_swallow_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST", 100)
    monkeypatch.setattr(records, "CHUNK", 50)
    (tmp_path / "a.json").write_text('[{"a": 1}, {"b" 2}' + ', {"c": 3}' * 100 + "]")
    with pytest.raises(ValueError, match="broken at byte 11"):
        list(scan(tmp_path / "a.json"))


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["ab"]')
    with pytest.raises(ValueError, match="no record at byte 2: the file has changed"):
        read(tmp_path / "a.json", 2, 3)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_byte_order_mark_is_passed_over(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "CHUNK", chunk)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'[{"a": 1}, {"b": 2}] \n')
    found = list(scan(tmp_path / "a.json"))
    assert [read(tmp_path / "a.json", start, length) for start, length, _ in found] == [{"a": 1}, {"b": 2}]
