"""`evocomp methods`, `models`, `tasks` and the other lists: what there is, a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from bench.commands.common import as_json, show_json, show_table
from evosearch.registry import describe, options


def _methods() -> Mapping[str, object]:
    from baselines import METHODS

    return METHODS


def _models() -> Mapping[str, object]:
    from compress.models import MODELS

    return MODELS


def _tasks() -> Mapping[str, object]:
    from bench.tasks import TASKS

    return TASKS


def _groupers() -> Mapping[str, object]:
    from evosearch import GROUPERS

    return GROUPERS


def _strategies() -> Mapping[str, object]:
    from evosearch import STRATEGIES

    return STRATEGIES


def _kinds() -> Mapping[str, object]:
    from compress.labels import KINDS

    return KINDS


def _losses() -> Mapping[str, object]:
    from compress.losses import LOSSES

    return LOSSES


def _listing(plural: str, registry: Callable[[], Mapping[str, object]]) -> click.Command:
    @click.command(
        plural,
        help=f"List the {plural}, one line each, with the options that NAME:option=value sets.\n\n\b\n"
        f"Example:\n  evocomp {plural} --json",
    )
    @as_json
    def listing(machine: bool) -> None:
        entries = registry()
        lines = {n: getattr(e, "about", "") for n, e in entries.items() if not callable(e)} | describe(
            {n: e for n, e in entries.items() if callable(e)}
        )
        settings = {n: options(e) if callable(e) else {} for n, e in entries.items()}
        if machine:
            show_json([{"name": n, "about": lines[n], "options": settings[n]} for n in entries])
            return
        show_table(
            ["name", "about", "options"],
            [[n, lines[n], ", ".join(f"{k}={v}" for k, v in settings[n].items())] for n in entries],
        )

    return listing


COMMANDS = {
    plural: _listing(plural, registry)
    for plural, registry in (
        ("methods", _methods),
        ("models", _models),
        ("tasks", _tasks),
        ("groupers", _groupers),
        ("strategies", _strategies),
        ("kinds", _kinds),
        ("losses", _losses),
    )
}
