"""Runs a plan and writes its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baselines import METHODS
from bench.evaluation.cells import Cell, CellKey, Cells
from bench.evaluation.comparison import VANILLA, Comparison, Group, assemble
from bench.evaluation.environment import environment
from bench.evaluation.evaluate import whole_of
from bench.evaluation.history import CommandRun, Times, put_json
from bench.evaluation.origin import Origin
from bench.recipe.draw import draw
from bench.recipe.findings import findings, untouched
from bench.recipe.forms import RecipeReport, latex, markdown
from bench.recipe.oracle import headroom
from bench.recipe.paper import Paper, orders, signs, verdict
from bench.recipe.plan import COMPARISON, PICTURES, Plan
from bench.recipe.schedule import work_off
from bench.recipe.schema import Recipe
from bench.report.outputs import of_model, put, write
from bench.report.published import MeasuredRow, beside
from bench.report.stores import difference, summarise
from bench.report.table import answered
from bench.report.tables import Table
from bench.tasks.provenance import data_facts
from compress.keep import Keep
from compress.labels import sample_key
from compress.progress import Bar
from evosearch.registry import options, parse

CLOCKED = ("samples per second", "hours left", "median seconds per sample")  # left out of results
SPEEDUP = ("row", "keep", "stage", "times", "paper")


def run(plan: Plan, bar: Bar, command: str) -> Path:
    """Do the remaining steps of the plan; return the folder of results.json, tables, comparison and pictures.

    An interruption loses no finished work; the same call resumes.
    """
    work_off([step for step in plan.steps if step not in plan.timed], plan.shop, bar)
    plan.folder.mkdir(parents=True, exist_ok=True)
    comparison = compared(plan) if plan.recipe.rows else None
    if comparison:
        facts = data_facts(plan.recipe.data, plan.answers.data)
        write(comparison, plan.mllm, plan.folder / COMPARISON, Origin(plan.recipe.title, facts, [command]))
    for step in plan.timed:  # these plot the scores of the comparison
        step.do(bar)
    pictures = draw(plan, plan.recipe.draw, comparison) if plan.recipe.draw else []
    pictures += [taken for step in plan.timed for taken in step.pictures(plan.folder / PICTURES)]
    told = tell(plan, command)
    told.pictures = [path.relative_to(plan.folder).as_posix() for path in pictures]
    Times.read(plan.folder).after(CommandRun.now(command)).took(spent(plan)).save(plan.folder)
    put_json(plan.folder / "results.json", results(plan, told))
    put(plan.folder / "table.md", markdown(told))
    put(plan.folder / "table.tex", latex(told))
    return plan.folder


def cells_of(plan: Plan) -> dict[tuple[str, int], dict[tuple[Keep, str], Cell]]:
    """All cells by row and seed."""
    found = plan.answers.cells() if plan.recipe.rows else {}
    for one in plan.searched:
        found |= one.cells()
    return found


def tell(plan: Plan, command: str) -> RecipeReport:
    """The results of the finished steps, compared with the paper."""
    recipe, tasks = plan.recipe, list(plan.answers.data)
    names = [task.name for task in tasks]
    paper = Paper.of(recipe.paper) if recipe.paper and recipe.rows else None
    told = RecipeReport(
        recipe=recipe, command=command, facts=of_model(plan.mllm), machine=environment(),
        tokens=whole_of(plan.mllm, plan.answers.data), tasks=names, paper=paper,
    )  # fmt: skip
    if not recipe.rows:
        return told
    told.labels = label_costs(plan)
    if recipe.draw:  # too few questions for findings; the pictures are the result
        return told
    cells = cells_of(plan)
    found = findings(cells, tasks, plan.budgets, list(recipe.rows), recipe.reference, networks(recipe))
    vanilla = untouched(cells, tasks)
    told.vanilla, told.answered = {task: one.score for task, one in vanilla.items()}, answered(vanilla)
    told.findings = found
    if paper:
        told.orders = orders(found, paper, names)
        told.signs = signs(found, paper, names, recipe.reference) if recipe.reference else []
        told.verdict = verdict(told.signs, told.orders, paper, plan.mllm.name)
    told.published = published(plan, cells, told)
    if plan.losses and recipe.reference:
        images = {task.name: [*map(task.image, samples)] for task, samples in plan.answers.data.items()}
        told.headroom = headroom(plan.losses.read(), recipe.reference, [VANILLA, *recipe.rows], images)
    told.speedups = [one for step in plan.timed for one in step.speedups()]
    told.timed = [step.table() for step in plan.timed]
    return told


def networks(recipe: Recipe) -> list[str]:
    """The rows whose answers depend on a training: those that learn, and methods with a compressor."""
    return [
        name
        for name, row in recipe.rows.items()
        if row.learns or row.method and "compressor" in options(METHODS[parse(row.method)[0]])
    ]


def published(
    plan: Plan, cells: Mapping[tuple[str, int], Mapping[tuple[Keep, str], Cell]], told: RecipeReport
) -> Table | None:
    """Rows that learn nothing, beside the scores that other publications give for the same method."""
    rows = []
    for (row, _), listed in cells.items():
        scores: dict[Keep, dict[str, float]] = {}
        for (keep, task), cell in listed.items():
            if cell.outcome:
                scores.setdefault(keep, {})[task] = cell.outcome.score
        method = next(iter(listed.values())).method
        rows += [MeasuredRow(row, method, keep, found) for keep, found in scores.items()]
    return beside(rows, plan.mllm.name, told.tokens, plan.answers.facts)


def label_costs(plan: Plan) -> list[dict[str, Any]]:
    """Statistics of each label store, the rows that learn from it, and its loss against the reference's.

    There is no loss against the reference for a store that has fewer than two samples in common with it.
    """
    first, *others = plan.recipe.seeds
    sharing: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for place, step in plan.stores.items():
        sharing.setdefault((step.digest, step.units), []).append(place)
    reference = plan.recipe.reference
    base = plan.stores.get((reference, first)) if reference else None
    lines: list[dict[str, Any]] = []
    for places in sharing.values():
        step = plan.stores[places[0]]
        rows = list(dict.fromkeys(row for row, _ in places))
        if others and len(places) == 1:
            rows = [f"{row}, seed {seed}" for row, seed in places]
        held = base and (reference, first) not in places and base.model == step.model
        asked = [sample_key(one) for one in step.samples]
        common = set(asked).intersection(map(sample_key, base.samples)) if base and held else ()
        against = difference(base.store(), step.store(), common) if base and len(common) > 1 else None
        told = summarise(step.store(), asked)
        found = {name: value for name, value in told.items() if name not in CLOCKED}
        lines.append({"row": ", ".join(rows), **found, "against the reference": against,
                      "shipped": len(step.shipped)})  # fmt: skip
    return lines


def spent(plan: Plan) -> dict[str, float]:
    """Seconds by kind of step, over all runs that worked on the plan's steps."""
    found: dict[str, float] = {}
    for step in plan.steps:
        for one in step.work_done:
            found[step.kind] = found.get(step.kind, 0.0) + one.seconds
    return found


def compared(plan: Plan) -> Comparison:
    """All rows and seeds as a comparison; its cells are in the result's folder, for `evocomp report`."""
    several = len(plan.recipe.seeds) > 1
    cells: dict[CellKey, Cell] = {}
    for (row, seed), listed in cells_of(plan).items():
        name = f"{row}, seed {seed}" if several and (row, seed) in plan.trains else row
        for (keep, task), cell in listed.items():
            key = CellKey(name, keep, task)
            cells[key] = Cell(key, cell.protocol, cell.method, cell.outcome, cell.impossible)
    data = {task.name: samples for task, samples in plan.answers.data.items()}
    protocol = {name: value for name, value in plan.answers.facts.items() if name != "vanilla"}
    kept = Cells(plan.folder / COMPARISON, protocol, {key.method: cell.method for key, cell in cells.items()})
    for key, cell in cells.items():
        if not kept.finished(key):
            kept.add(key, data[key.task], cell.outcome, cell.impossible)
    reference = plan.recipe.reference
    if reference and several and (reference, plan.recipe.seeds[0]) in plan.trains:
        reference = f"{reference}, seed {plan.recipe.seeds[0]}"
    return assemble(
        list(plan.answers.data), [Group(cells, whole_of(plan.mllm, plan.answers.data))], list(plan.budgets),
        reference=reference, match=plan.recipe.match, samples=data,
    )  # fmt: skip


def results(plan: Plan, told: RecipeReport) -> dict[str, Any]:
    """All results as a JSON-ready dictionary."""
    paper = told.paper
    return {
        "recipe": asdict(plan.recipe),
        "facts": told.facts,
        "steps": [{"step": step.folder.name, "title": step.title} for step in plan.steps],
        "vanilla": told.vanilla,
        "rows": [
            {
                **asdict(one), "significant": one.significant,
                "paper": {task: paper.score(one.row, one.paper_keep, task) for task in told.tasks}
                if paper else None,
                "paper_average": paper.share(one.row, one.paper_keep, told.tasks) if paper else None,
            }
            for one in told.findings
        ],
        "signs": [{**asdict(one), "words": one.words} for one in told.signs],
        "orders": [asdict(one) for one in told.orders],
        "verdict": told.verdict,
        "headroom": told.headroom,
        "labels": told.labels,
        "speedups": [dict(zip(SPEEDUP, one, strict=True)) for one in told.speedups],
    }  # fmt: skip
