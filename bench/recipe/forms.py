"""Results of a recipe as Markdown and LaTeX: measured values beside the paper's, and a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.evaluation.budget import MEANING
from bench.recipe.findings import Finding
from bench.recipe.paper import Paper, RankAgreement, Sign
from bench.recipe.schema import Recipe
from bench.report.table import AVERAGE, BEYOND, MISSING, one
from bench.report.tables import Table, plain
from compress.keep import Ratio, in_words


@dataclass
class RecipeReport:
    """The data of the Markdown and LaTeX forms."""

    recipe: Recipe
    command: str
    facts: Mapping[str, str]  # of the model
    machine: Mapping[str, str]  # with its versions
    tokens: int
    tasks: Sequence[str]
    paper: Paper | None = None
    vanilla: Mapping[str, float] = field(default_factory=dict)
    answered: str = ""  # number of answers, in words
    findings: Sequence[Finding] = ()
    signs: Sequence[Sign] = ()
    orders: Sequence[RankAgreement] = ()
    verdict: Sequence[str] = ()
    headroom: Sequence[Mapping[str, Any]] = ()
    labels: Sequence[Mapping[str, Any]] = ()
    speedups: Sequence[tuple[str, int, str, float, float | None]] = ()  # row, budget, stage, measured, paper
    timed: Sequence[Table] = ()  # medians of the timing steps
    pictures: Sequence[str] = ()  # paths relative to the page
    published: Table | None = None  # measured beside published scores


def header(told: RecipeReport) -> list[str]:
    """Column names of `lines`."""
    names = []
    for name in (AVERAGE, *told.tasks):
        names += [name, "paper"] if told.paper else [name]
    reference = told.recipe.reference
    against = [f"vs {reference}, 95 %"] if reference else []
    sign = ["sign"] if reference and told.paper else []
    seeds = ["seeds"] if len(told.recipe.seeds) > 1 else []
    return ["row", *names, *against, *sign, *seeds, "tokens/layer", "FLOPs %"]


def title(told: RecipeReport, finding: Finding) -> str:
    """A budget in words."""
    here = in_words(finding.keep, told.tokens)
    if told.paper is None or told.tokens == told.recipe.of or isinstance(finding.keep, Ratio):
        return here
    return f"{here} (the paper's {finding.paper_keep} of {told.recipe.of})"


def lines(told: RecipeReport) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield titles with their rows as text: vanilla, then budget by budget."""
    paper = told.paper
    if told.vanilla:
        cells = [one(100.0), *(["100.0"] if paper else [])]
        for task in told.tasks:
            cells += [one(told.vanilla[task]), *([one(paper.vanilla.get(task))] if paper else [])]
        empty = len(header(told)) - 1 - len(cells)
        yield f"all {told.tokens} visual tokens", [["none", *cells, *[""] * empty]]
    for keep in dict.fromkeys(each.keep for each in told.findings):
        block = [each for each in told.findings if each.keep == keep]
        yield title(told, block[0]), [_line(told, each) for each in block]


def _line(told: RecipeReport, found: Finding) -> list[str]:
    paper, where = told.paper, (found.row, found.paper_keep)
    cells = [found.row, one(found.average)]
    cells += [one(paper.share(*where, told.tasks))] if paper else []
    for task in told.tasks:
        cells.append(one(found.scores.get(task)))
        cells += [one(paper.score(*where, task))] if paper else []
    if told.recipe.reference:
        mark = BEYOND if found.significant else ""
        cells.append(f"{found.gap}{mark}{', one seed' if found.single else ''}" if found.gap else "")
        if paper:
            cells.append(next((s.words for s in told.signs if (s.row, s.keep) == where), ""))
    if len(told.recipe.seeds) > 1:
        cells.append(", ".join(map(one, found.seeds)) if len(found.seeds) > 1 else "")
    return [*cells, one(found.tokens), one(found.flops)]


def notes(told: RecipeReport) -> list[str]:
    """Notes for the reader, one per line."""
    recipe = told.recipe
    listed = [
        f"Command: `{told.command}`. Model {told.facts['model']}, {told.machine['cores']} cores of "
        f"{told.machine['processor']}, accelerator {told.machine['accelerator']}, "
        f"torch {told.machine['torch']}."
    ]
    if told.findings:
        listed.append(
            f"{AVERAGE}: the score as a percentage of the untouched model's, averaged over the tasks. "
            f"Budgets are {MEANING[recipe.match]}."
        )
    if told.answered:
        listed.append(told.answered)
    if recipe.reference and told.findings:
        over = (
            "Intervals are paired bootstrap intervals over images; an image is drawn with all its questions."
        )
        if len(recipe.seeds) > 1:
            over += " For rows that learn they include the spread over seeds, with quantiles of Student's t."
        listed.append(f"{over} {BEYOND} significant at 5 % after Holm's correction over the table.")
        if any(each.single for each in told.findings):
            listed.append(
                "One seed: a row that learns is a single network. Its intervals do not cover other trainings."
            )
    if told.headroom:
        listed.append(
            "Losses of what was kept are those of a row's first seed, or of a random method's first draw."
        )
    if told.paper:
        listed.append(
            f"Columns `paper`: {told.paper.model} as reported in the paper, which gives no intervals."
        )
    listed += [
        f"{each['shipped']} of {each['samples']} labels of {plain(str(each['row']))} ship with the package. "
        f"They were made with the same settings; `--fresh` searches them again."
        for each in told.labels
        if each["shipped"]
    ]
    reasons = {
        plain(f"{each.row} at {each.keep}: {each.impossible}") for each in told.findings if each.impossible
    }
    return [*listed, *(f"{MISSING} {reason}" for reason in sorted(reasons))]


def table(told: RecipeReport) -> Table:
    """The findings, one block per budget after vanilla."""
    rows: list[Sequence[str] | str] = []
    for name, block in lines(told):
        rows += [name, *block]
    return Table(header(told), rows)


def markdown(told: RecipeReport) -> str:
    """The whole page in Markdown."""
    page = [f"# {plain(told.recipe.title)}", ""]
    if told.findings:
        page.append(table(told).markdown())
    for path in told.pictures:
        page += [f"![{plain(told.recipe.title)}]({path})", ""]
    if told.verdict:
        page += ["## Beside the paper", "", *(f"- {line}" for line in told.verdict), ""]
    if told.published:
        page += ["## Beside other publications", "", told.published.markdown()]
    if told.speedups:
        rows = [
            [row, str(keep), stage, f"{times:.2f}", one(paper)]
            for row, keep, stage, times, paper in told.speedups
        ]
        page += ["## Times faster than the untouched model", ""]
        page.append(Table(["row", "keep", "stage", "measured", "paper"], rows).markdown())
        page += ["Medians in milliseconds:", "", *(one.markdown() for one in told.timed)]
    if told.headroom:
        rows = [
            [str(each["row"]), str(each["keep"]), f"{each['loss']:.3f}", _nats(each["above"])]
            for each in told.headroom
        ]
        columns = ["row", "keep", "loss, nats", f"above {told.recipe.reference or ''}, 95 %"]
        page += ["## Loss of what was kept", "", Table(columns, rows).markdown()]
    if told.labels:
        gaps = [(each["against the reference"] or {}).get("difference") for each in told.labels]
        rows = [
            [
                *(str(each[name] or MISSING) for name in ("row", "kind", "grouper", "strategy")),
                str(each["samples"]), f"{each['evaluations per sample']:.0f}",
                f"{each['loss of a random candidate']:.3f}", f"{each['loss of the label']:.3f}",
                f"{each['loss of all tokens']:.3f}", _nats(gap),
            ]
            for each, gap in zip(told.labels, gaps, strict=True)
        ]  # fmt: skip
        columns = ["row", "kind", "grouper", "strategy", "samples", "evaluations", "random candidate",
                   "label", "all tokens", "label vs reference, 95 %"]  # fmt: skip
        page += ["## Labels", "", Table(columns, rows).markdown()]
    return "\n".join([*page, *(f"- {note}" for note in notes(told))]) + "\n"


def _nats(gap: Mapping[str, float] | None) -> str:
    return f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else ""


def latex(told: RecipeReport) -> str:
    """The table for a paper (booktabs)."""
    return table(told).latex()
