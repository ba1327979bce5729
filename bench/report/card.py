"""The card of a comparison: one page on how it was measured, from its folder alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baselines import METHODS
from bench.evaluation.budget import MEANING
from bench.evaluation.comparison import Comparison
from bench.evaluation.history import Times
from bench.evaluation.merge import Source
from bench.evaluation.origin import Origin
from bench.evaluation.protocol import CODE
from bench.evaluation.stats import DRAWS, LEVEL
from bench.report.page import ledger
from bench.report.published import MeasuredRow, beside
from bench.report.table import one
from bench.report.tables import Table, plain

MODEL = ("model", "fingerprint", "attention kernel")
RUN = ("dtype", "device", "visual tokens", "prompt", "positions", "batch")
TASK = ("protocol", "split", "version", "metric", "n", "new tokens", "image mode", "samples")
DRAWN = re.compile(r"-(train|val|test)-\d+$")  # the split in the id of a miniature's sample
DATA = "data: "  # prefix of the names of facts about official files
COUNTING = (
    "A published budget may be left after the last stage, entering a layer, leaving it, or per tile; "
    "docs/counting.md says for every method which setting here gives its published counts."
)


def card(folder: Path, comparison: Comparison, origin: Origin) -> str:
    """The card in Markdown. `comparison` and `origin` are those of `folder`.

    The card has the model and prompt, budgets and tokens of every row, tasks, statistics, published numbers,
    differences from the papers, commands and environment.
    """
    told = Source.read(folder).protocol
    parts = [
        f"# {plain(origin.title)}",
        "## Model and prompt",
        _listed({name: origin.facts[name] for name in MODEL if name in origin.facts}
                | {name: str(told[name]) for name in RUN if name in told}),
        "## Budgets and tokens",
        f"Equal across methods: {MEANING[comparison.match]}. {COUNTING}",
        _rows(comparison),
        "## Benchmarks",
        _tasks(comparison, told),
        *_data(origin),
        "## Statistics",
        _statistics(comparison),
        *_published(comparison, origin, told),
        "## How this differs from the papers",
        _departures(comparison),
        "## Commands",
        _commands(folder, origin),
        "## Environment",
        _listed({
            name: value for name, value in origin.facts.items()
            if name not in MODEL and not name.startswith(DATA)
        }),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in facts.items()) or "- not recorded"


def _rows(comparison: Comparison) -> str:
    """The cost of every row: visual tokens entering the layers, those left at the end, FLOPs."""
    layers = ledger(comparison)
    rows = []
    for row in comparison.rows:
        words = layers.get((row.method, row.keep), ([], "–"))[1]
        rows.append([row.method, str(row.keep), words, one(row.tokens), one(row.left), one(row.flops)])
    names = ["method", "asked", "entering, tokens × layers", "mean per layer", "left at the end", "FLOPs %"]
    return Table(names, rows).markdown().strip()


def _tasks(comparison: Comparison, told: Mapping[str, Any]) -> str:
    rows = []
    for task in comparison.tasks:
        run = next((run for (_, _, name), run in comparison.outcomes.items() if name == task), None)
        known = {name: told.get(f"{task}: {name}") for name in TASK}
        if run and not known["split"] and (found := DRAWN.search(run.samples[0])):
            known["split"] = found[1]
        facts = ["–" if value is None else str(value) for value in known.values()]
        counts = [str(len(run.credit)), str(len(set(run.images)))] if run else ["–", "–"]
        rows.append([task, *facts[:-1], *counts, facts[-1]])
    names = ["task", *("samples asked" if name == "n" else name for name in TASK[:-1]), "units", "images"]
    return Table([*names, "digest of the samples"], rows).markdown().strip()


def _data(origin: Origin) -> list[str]:
    """The official files that were read, if any."""
    facts = {name.removeprefix(DATA): value for name, value in origin.facts.items() if name.startswith(DATA)}
    return ["## Data", _listed(facts)] if facts else []


def _statistics(comparison: Comparison) -> str:
    drawn = {key[0]: len(run.draws) for key, run in comparison.outcomes.items() if len(run.draws) > 1}
    trained = dict.fromkeys(row.method for row in comparison.rows if row.trained)
    lines = [
        f"Paired on the same samples; bootstrap over images, {DRAWS:,} draws, 95 % intervals, not corrected.",
        f"McNemar's exact test by image for scores; Holm's correction over the table at {100 * LEVEL:g} %.",
        f"Equivalence: the whole interval is within {comparison.margin:g} points.",
        f"Reference: {comparison.reference or 'none'}.",
        "Decoding is greedy: an answer has no seed.",
    ]
    if drawn:
        counts = ", ".join(f"{name} {count}" for name, count in drawn.items())
        lines.append(f"Random methods, mean over draws: {counts}.")
    if trained:
        lines.append(f"One training, one seed: {', '.join(trained)}; intervals do not cover other trainings.")
    lines += [f"Mixed protocols: {line}" for line in comparison.mixed]
    return "\n".join(f"- {plain(line)}" for line in lines)


def _published(comparison: Comparison, origin: Origin, told: Mapping[str, Any]) -> list[str]:
    """Published scores for the same setting, if any."""
    rows = [
        MeasuredRow(row.method, comparison.methods[row.method], row.keep, row.scores)
        for row in comparison.rows
        if row.method in comparison.methods
    ]
    table = beside(rows, origin.facts.get("model", ""), int(told.get("visual tokens", 0)), told)
    return ["## Beside published numbers", table.markdown().strip()] if table else []


def _departures(comparison: Comparison) -> str:
    """Per method: options, the departures listed in its docstring, and choices on this model."""
    lines = []
    for name, facts in comparison.methods.items():
        kind = next((kind for kind in METHODS.values() if kind.__name__ == facts.get("class")), None)
        known = ("class", "positions", "adaptive", "choices", CODE)
        options = ", ".join(f"{key}={value}" for key, value in facts.items() if key not in known)
        said = [f"positions {facts.get('positions', '?')}", *([options] if options else [])]
        said += [found] if (found := departures(kind.__doc__ or "") if kind else "") else []
        said += [f"on this model: {choice}" for choice in facts.get("choices", ())]
        lines.append(f"- {plain(name)}: {plain('; '.join(said))}")
    return "\n".join(lines)


def departures(docstring: str) -> str:
    """The paragraph of a method's docstring that begins with "Departures"; empty without one."""
    found = re.search(r"^\s*Departures?[^\n:]*:(.*?)(?:\n\s*\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    return "departures: " + " ".join(found[1].split()) if found else ""


def _commands(folder: Path, origin: Origin) -> str:
    dates = [run.date for run in Times.read(folder).runs if run.date]
    made = [f"Finished {dates[-1]}."] if dates else []
    return "\n".join(["```sh", *origin.commands, "```", *made]) if origin.commands else "- not recorded"
