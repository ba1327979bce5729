"""Method and budget of an engine: read from one source, with error messages that say what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.keep import Keep, read_keep
from evosearch.registry import cut, specs, unknown

FIELD = "evocomp"  # of --hf-overrides, and of a request's mm_processor_kwargs
VARIABLES = {"method": "EVOCOMP_METHOD", "keep": "EVOCOMP_KEEP", "also": "EVOCOMP_ALSO"}
NONE = "none"


@dataclass(frozen=True)
class Asked:
    """A method by name, and a budget."""

    method: str
    keep: Keep | None  # None with the method `none`

    def __str__(self) -> str:
        return self.method if self.keep is None else f"{self.method} at {self.keep}"


@dataclass(frozen=True)
class Settings:
    """The default of every request, and further methods that a request may name."""

    default: Asked
    also: tuple[str, ...] = ()


def asked(method: object, keep: object) -> Asked:
    """A method and a budget from a user's values; ValueError if one is missing or of the wrong type."""
    if not isinstance(method, str) or not method.strip():
        raise ValueError(f"method={cut(repr(method))}: give the name of a method (evocomp list methods)")
    method = method.strip()
    if method == NONE:
        if keep is not None:
            raise ValueError(f"keep={cut(keep)} with method=none, which keeps all: leave one of them out")
        return Asked(NONE, None)
    if keep is None:
        raise ValueError(f"method={method} without a budget: give keep, a count of visual tokens or a ratio")
    return Asked(method, read_keep(keep))


def read(overrides: Mapping[str, Any] | None, environment: Mapping[str, str] = os.environ) -> Settings | None:
    """Settings from `overrides` (field "evocomp" of --hf-overrides) or the environment; None without any.

    ValueError if both have settings, for unknown fields, and for a method without a budget.
    """
    variables = {key: value for key, name in VARIABLES.items() if (value := environment.get(name))}
    if overrides is not None and not isinstance(overrides, Mapping):
        raise ValueError(f'{FIELD}={cut(repr(overrides))}: write {{"method": "evocomp+", "keep": 64}}')
    if overrides and variables:
        named = " and ".join(VARIABLES[key] for key in variables)
        raise ValueError(f"method and budget are given as --hf-overrides and as {named}: leave one out")
    given: Mapping[str, Any] = overrides or variables
    if not given:
        return None
    for key in given:
        if key not in VARIABLES:
            raise ValueError(unknown(f"{FIELD} setting", key, VARIABLES))
    further = given.get("also", ())
    also = specs(further) if isinstance(further, str) else list(further)
    return Settings(asked(given.get("method", NONE if also else None), given.get("keep")), tuple(also))


def of_request(settings: Settings, wish: Mapping[str, Any] | None) -> Asked:
    """Method and budget of a request with the wish {"method": ..., "keep": ...}; either may be missing.

    ValueError for a method that the server was not started with.
    """
    if wish is None:
        return settings.default
    if not isinstance(wish, Mapping) or (strange := wish.keys() - {"method", "keep"}):
        what = cut(repr(wish)) if not isinstance(wish, Mapping) else ", ".join(sorted(map(str, strange)))
        raise ValueError(f'{FIELD} of a request: write {{"method": NAME, "keep": N}}, not {what}')
    method = wish.get("method", settings.default.method)
    if method not in (NONE, settings.default.method, *settings.also):
        known = ", ".join(dict.fromkeys([settings.default.method, *settings.also]))
        raise ValueError(
            f"method={cut(repr(method))} of a request: this server was started with {known}; others are "
            f"named at its start ({VARIABLES['also']})"
        )
    default = settings.default.keep if method != NONE else None
    return asked(method, wish.get("keep", default))
