"""JSON arrays of records too large for memory, such as LLaVA's mixtures.

They are read and written as streams, and any record can be read again from its byte offset.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from compress.documents import once, regular_file
from compress.files import replacing

CHUNK = 1 << 20  # bytes read at a time
LONGEST = 1 << 26  # characters of a record: a longer one is broken and includes the rest of the file
BETWEEN = re.compile(r"[\s,]*")


def scan(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yield each record's first byte, length in bytes and content; none is kept in memory.

    ValueError, with the byte offset, if the file is not a complete array of JSON values.
    """
    decoder, parser = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder(object_pairs_hook=once)
    with regular_file(path).open("rb") as file:
        byte = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        file.seek(byte)
        chunks = iter(partial(file.read, CHUNK), b"")
        text, at, opened = "", 0, False  # text[at] lies at `byte`
        while True:
            start = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches "" too
            at, byte = start, byte + start - at  # all of these are single bytes
            if not opened and at < len(text):
                if text[at] != "[":
                    raise ValueError(f"{path}: not a JSON array of records")
                at, byte, opened = at + 1, byte + 1, True
                continue
            if opened and text.startswith("]", at):
                if text[at + 1 :].strip() or any(more.strip() for more in chunks):
                    raise ValueError(f"{path}: something stands behind the array (byte {byte + 1})")
                return
            try:
                record, end = parser.raw_decode(text, at)
            except json.JSONDecodeError as problem:
                if len(text) - at > LONGEST:
                    raise ValueError(
                        f"{path}: broken at byte {byte} ({problem.msg}); fetch it again"
                    ) from None
                if (more := next(chunks, None)) is None:
                    raise ValueError(
                        f"{path}: the array has no end (byte {byte}: {problem.msg}); fetch it again"
                    ) from None
                try:
                    text, at = text[at:] + decoder.decode(more), 0
                except UnicodeDecodeError as wrong:
                    raise ValueError(f"{path}: not UTF-8 near byte {byte} ({wrong.reason})") from wrong
                continue
            except (RecursionError, ValueError) as problem:
                raise ValueError(f"{path}: the record at byte {byte} cannot be read ({problem})") from problem
            length = len(text[at:end].encode())
            yield byte, length, record
            at, byte = end, byte + length


def read(path: Path, start: int, length: int) -> Any:
    """Read the record that `scan` found at `start`; ValueError if it is no longer there."""
    with path.open("rb") as file:
        file.seek(start)
        try:
            return json.loads(file.read(length))
        except ValueError as problem:
            raise ValueError(f"{path}: no record at byte {start}: the file has changed") from problem


def write(path: Path, records: Iterable[Any]) -> int:
    """Write an array, one record per line; return their number. The file appears when it is complete."""
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            file.write(",\n" if count else "\n")
            json.dump(record, file, ensure_ascii=False)
            count += 1
        file.write("\n]\n")
    return count
