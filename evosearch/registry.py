"""Registries: objects specified by text, as `name` or `name:option=value,option=value`.

A registry is a plain dict from names to factories (classes or functions). Options are the factory's
parameters, read from its signature, so a new entry needs only one line. Error messages suggest the nearest
known name.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
FEW = 8  # names of a long list that a message shows
LARGEST = 2**63 - 1  # largest integer of an option, as in an int64 array
SIMPLE = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def pick(registry: Mapping[str, Callable[..., T]], spec: str, kind: str, **context: object) -> T:
    """Build the entry named by `spec`, with the options in `spec`.

    `kind` is the term for an entry in error messages ("grouper"). `context` holds values that the caller
    offers (a matrix, a seed, a count). An entry receives those that its signature names; options in `spec`
    take precedence. ValueError for unknown names and options, values of the wrong type, and missing context.
    """
    name, written = parse(spec)
    factory = find(registry, name, kind)
    allowed = options(factory)
    hints = _hints(factory)
    given = {}
    for option, text in written.items():
        if option not in allowed:
            raise ValueError(unknown(f"option of {kind} '{name}'", option, allowed))
        given[option] = _read(hints[option], text, f"{kind} '{name}': {option}={cut(text)}")
    parameters = inspect.signature(factory).parameters
    arguments = {key: value for key, value in context.items() if key in parameters} | given
    missing = [key for key, parameter in parameters.items() if _required(parameter) and key not in arguments]
    if missing:
        raise ValueError(f"{kind} '{name}' needs {' and '.join(missing)}")
    return factory(**arguments)


def find(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return the entry called `name`; ValueError with the nearest known name if there is none."""
    if name not in registry:
        raise ValueError(unknown(kind, name, registry))
    return registry[name]


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Split `name:option=value,option=value` into the name and its options, still as text."""
    name, colon, tail = spec.partition(":")
    if colon and not tail.strip(", "):
        raise ValueError(f"'{cut(spec)}' names no option after the colon: write name or name:option=value")
    written: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in tail.split(","))):
        option, equals, text = part.partition("=")
        option = option.strip().replace("-", "_")
        if not equals or not option:
            raise ValueError(
                f"'{cut(part)}' in '{cut(spec)}': write options as name:option=value,option=value"
            )
        if option in written:
            raise ValueError(f"'{cut(spec)}' gives {option} twice")
        written[option] = text.strip()
    return name.strip(), written


def options(factory: Callable[..., object]) -> dict[str, str]:
    """Return the parameters that a spec can set, those with text values, with their defaults as text.

    The text for a parameter without a default is "required".
    """
    parameters, hints = inspect.signature(factory).parameters, _hints(factory)
    return {
        key: _text(parameters[key].default)
        for key, hint in hints.items()
        if key in parameters and _kinds(hint)
    }


def describe(registry: Mapping[str, object]) -> dict[str, str]:
    """Return the first line of each entry's docstring, in the registry's order."""
    return {name: (inspect.getdoc(entry) or "").partition("\n")[0] for name, entry in registry.items()}


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: the name, the nearest known name, and all known names."""
    names = sorted(known)
    near = get_close_matches(cut(name).lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean '{cut(near[0])}'? " if near else ""
    told = f"known: {listed(names, name)}" if names else "it has none"
    return f"unknown {kind} '{cut(name)}'; {hint}({told})"


def cut(text: object, longest: int = 80) -> str:
    """Return the text in one line of printable characters, with its middle cut out beyond `longest`."""
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))
    if len(line) <= longest:
        return line
    head = (longest - 5) * 2 // 3
    return f"{line[:head]} ... {line[head + 5 - longest :]}"


def listed(names: Iterable[object], near: str = "", most: int = 24) -> str:
    """Join names with commas for a message; of more than `most`, only the few nearest to `near`."""
    told = [cut(name) for name in names]
    if len(told) <= most:
        return ", ".join(told)
    few = get_close_matches(cut(near).lower(), told, n=FEW, cutoff=0.3) or told[:FEW]
    return f"{', '.join(few)} and {len(told) - len(few):,} more"


def _required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def _text(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _hints(factory: Callable[..., object]) -> dict[str, Any]:
    """Return the evaluated annotations of fields or parameters; names unknown at run time are left out."""
    owners: list[object] = [factory]
    if isinstance(factory, type):
        owners = [part for cls in reversed(factory.__mro__) for part in (cls, vars(cls).get("__init__"))]
    hints: dict[str, Any] = {}
    for owner in owners:
        if not isinstance(owner, type | FunctionType):
            continue
        for name, hint in inspect.get_annotations(owner).items():
            try:
                hints[name] = (
                    eval(hint, dict(vars(sys.modules[owner.__module__]))) if isinstance(hint, str) else hint
                )
            except NameError:
                continue
    return hints


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of an annotation that can be written as text; () if there are none but None."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = tuple(m for m in members if m in SIMPLE or get_origin(m) is Literal)
    return (*kinds, NoneType) if kinds and NoneType in members else kinds


def _read(hint: Any, text: str, where: str) -> object:
    kinds = _kinds(hint)
    if NoneType in kinds and text.lower() == "none":
        return None
    expected = ["none"] if NoneType in kinds else []
    for kind in sorted((k for k in kinds if k is not NoneType), key=lambda k: k is str):  # str accepts all
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
            expected.insert(0, "one of " + ", ".join(map(str, get_args(kind))))
            continue
        expected.insert(0, SIMPLE[kind])
        if kind is bool and text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        if kind is not bool:
            try:
                value = kind(text)
            except ValueError:
                continue
            if kind is int and abs(value) > LARGEST:
                raise ValueError(f"{where}: the largest whole number is {LARGEST:,}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{where}: choose a finite number")
            return value
    raise ValueError(f"{where}: expected {' or '.join(expected)}")


def names(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Split comma-separated names, without repetition; "all" gives all of `known`. ValueError if empty."""
    given = list(known) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    if not given:
        raise ValueError(f"{option} names nothing: write names with commas, or all ({', '.join(known)})")
    return list(dict.fromkeys(given))


def specs(text: str) -> list[str]:
    """Split "grid,fastv:layer=3,evocomp" at commas between specs, but not between options."""
    found: list[str] = []
    for part in text.replace(";", ",").split(","):
        name, equals, _ = part.partition("=")
        if equals and ":" not in name and found:
            found[-1] += f",{part.strip()}"
        elif part.strip():
            found.append(part.strip())
    if twice := [one for one in found if found.count(one) > 1]:
        raise ValueError(f"'{cut(twice[0])}' is named twice: name it once")
    return found
