"""Reads untrusted documents from disk.

Every error is a ValueError with one short line: the file, the field, the value found and the values allowed.
A missing file raises FileNotFoundError.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError

from evosearch.registry import cut

LARGEST = 1 << 28  # bytes of a document that is read whole
T = TypeVar("T")

StoredCount = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]

# pydantic's error types -> the expected value as error messages name it
ALLOWED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a number of fewer digits",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "none_required": "null",
    "too_short": "a longer list",
    "too_long": "a shorter list",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "settings by name",
    "mapping_type": "settings by name",
    "model_type": "settings by name",
    "model_attributes_type": "settings by name",
    "dataclass_type": "settings by name",
    "dataclass_exact_type": "settings by name",
}


class Document(BaseModel):
    """Base class of documents: types are not converted, numbers are finite, unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class _Whole(RootModel[T], Generic[T]):
    """A document of any other type."""

    model_config = Document.model_config


def regular_file(path: str | os.PathLike[str]) -> Path:
    """`path`, if it is a regular file; ValueError for a folder, a FIFO or a device.

    Call it before a library opens the file: opening a FIFO blocks until another process writes to it.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise ValueError(f"{path}: this is {kind}; give a regular file")
    return Path(path)


def read_text(path: str | os.PathLike[str], largest: int = LARGEST) -> str:
    """The text of a UTF-8 file of at most `largest` bytes, without a byte-order mark."""
    with regular_file(path).open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path}: larger than {largest >> 20} MiB; give a smaller file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise ValueError(
            f"{path}: not UTF-8 ({problem.reason} in line {line}, byte {problem.start})"
        ) from problem


def read_json(path: str | os.PathLike[str], largest: int = LARGEST) -> Any:
    """The content of a JSON file of at most `largest` bytes and 200 levels."""
    return parse_json(read_text(path, largest), path)


def parse_json(text: str | bytes, where: object) -> Any:
    """The value of a JSON text; `where` names its origin in errors."""
    return parse(Any, text, where)


def read(kind: type[T], path: str | os.PathLike[str], largest: int = LARGEST) -> T:
    """A JSON file as a `kind`: a Document, a dataclass, or any other type that pydantic knows."""
    return parse(kind, read_text(path, largest), path)


def parse(kind: type[T], text: str | bytes, where: object) -> T:
    """A JSON text as a `kind`; `where` names its origin in errors."""
    try:
        found: T = _whole(kind).model_validate_json(text).root  # type: ignore[arg-type]
    except ValidationError as problem:
        raise ValueError(f"{where}: {said(problem)}") from problem
    try:
        json.loads(text, object_pairs_hook=once)
    except ValueError as problem:
        raise ValueError(f"{where}: not JSON ({cut(problem, 200)})") from problem
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its names and values; ValueError for a name that occurs twice.

    For use as `object_pairs_hook`: by default, parsers silently take the last value.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{cut(twice)!r} occurs twice")
    return found


def checked(kind: type[T], value: object, where: object) -> T:
    """Validate plain data from JSON or YAML as a `kind`; `where` names its origin in errors."""
    return parse(kind, _ANY.dump_json(value), where)


def said(problem: ValidationError) -> str:
    """The first error in plain English, and the number of further errors."""
    first, *others = problem.errors(include_url=False)
    kind, field, allowed = first["type"], place(first["loc"]), first["msg"]
    if kind == "json_invalid":
        why = str(first["ctx"]["error"]).replace("recursion limit exceeded", "nested more than 200 levels")
        return f"not JSON ({why})"
    if kind == "missing":
        line = f"{field} is missing"
    elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
        line = f"{field} is not a known setting"
    elif kind in ("value_error", "assertion_error"):
        line = (f"{field}: " if field else "") + cut(allowed.partition(", ")[2], 300)
    else:
        allowed = ALLOWED.get(kind) or allowed.removeprefix("Input should be ")
        line = f"{field or 'the document'} is {described(first['input'])}, but it must be {allowed}"
    return line + (f" (and {len(others)} more)" if others else "")


def place(loc: Sequence[int | str]) -> str:
    """The path of a field, as in rows.fastv[3]."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{cut(part)}" for part in loc)
    return "".join(parts).removeprefix(".")


def described(value: object) -> str:
    """A value from a document, short enough for a message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(cut(value))
    if isinstance(value, Mapping):
        return "a set of settings"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 75 digits"
    return cut(str(value))


_ANY = TypeAdapter[Any](Any, config=ConfigDict(ser_json_inf_nan="constants"))


@lru_cache
def _whole(kind: Any) -> Any:
    return _Whole[kind]
