"""A comparison as the paper's table: rows of text, marks, notes, headlines.

There is a block per budget. Columns are the tasks, the mean share of vanilla, the measured cost, and the
differences from vanilla and from the reference (paired, 95 %). Values have one decimal, as in the paper.
Averages that are equivalent to a rival's and significant differences are marked. A missing value is a dash,
and `notes` gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from bench.evaluation.budget import MEANING
from bench.evaluation.comparison import VANILLA, Comparison, ComparisonRow, Contrast, hard_shares
from bench.evaluation.evaluate import Outcome
from bench.tasks.vizwiz import UNANSWERABLE
from compress.keep import Keep, Ratio, count_of, in_words

AS_VANILLA, AS_REFERENCE, BEYOND, MISSING = "°", "†", "*", "–"
AVERAGE, MIXED = "Avg. %", "MIXED PROTOCOLS"


@dataclass(frozen=True)
class Block:
    """The rows of one budget, best average first."""

    keep: Keep
    tokens: int  # of the untouched image; 0 if not counted
    rows: tuple[ComparisonRow, ...]

    @property
    def title(self) -> str:
        if not self.tokens:
            return "baseline" if all(row.untouched for row in self.rows) else "other runs"
        if all(row.untouched for row in self.rows):
            return f"all {self.tokens} visual tokens"
        share = self.keep.share if isinstance(self.keep, Ratio) else self.keep / self.tokens
        return f"{self.budget} (−{100 - 100 * float(share):.1f} %)"

    @property
    def budget(self) -> str:
        """The budget in words."""
        return in_words(self.keep, self.tokens)

    @property
    def other(self) -> ComparisonRow | None:
        """The row to compare with the first one: the reference, or the second if the reference is first."""
        if contrast := self.rows[0].reference:
            return next((row for row in self.rows if row.method == contrast.rival), None)
        return next((row for row in self.rows[1:] if not row.adaptive), None)

    @property
    def between(self) -> Contrast | None:
        """The contrast of the first row with `other`, or of `other` with the first if that was computed."""
        if self.other is None:
            return None
        if contrast := self.rows[0].reference:
            return contrast
        theirs = self.other.reference  # in a mixed table it may be against another protocol's row
        return theirs if theirs and theirs.rival == self.rows[0].method else None

    @property
    def ahead(self) -> str:
        """The lead of the first row over `other`, in words; empty if it was not tested."""
        if self.between is None or self.between.gap is None:
            return ""
        gap = self.between.gap if self.rows[0].reference else -self.between.gap
        return f"ahead by {gap}{'' if self.between.significant else ', not significant'}"

    def best(self, row: ComparisonRow, column: str) -> bool:
        """Whether a row has the block's highest value of `column` (a task or "average"), to one decimal.

        Rows without a budget are excluded.
        """

        def figure(row: ComparisonRow) -> float | None:
            return row.average if column == "average" else row.scores.get(column)

        known = [value for each in self.rows if not each.adaptive and (value := figure(each)) is not None]
        return len(known) > 1 and not row.adaptive and one(figure(row)) == one(max(known))


def one(value: float | None) -> str:
    """A value with one decimal, as in the paper, or a dash."""
    return MISSING if value is None else f"{value:.1f}"


def blocks(comparison: Comparison) -> list[Block]:
    """The rows by budget: vanilla first, then in the comparison's order."""
    tokens = count_of(comparison.rows[0].keep, 0)
    top = tuple(row for row in comparison.rows if row.untouched)
    rest = groupby(comparison.rows[len(top) :], key=lambda row: row.keep)
    return [Block(tokens, tokens, top), *(Block(keep, tokens, tuple(rows)) for keep, rows in rest)]


def marks(comparison: Comparison, row: ComparisonRow) -> str:
    """Signs of the rivals to which the row's average is equivalent: the interval is within the margin."""
    pairs = ((row.vanilla, AS_VANILLA), (row.reference, AS_REFERENCE))
    return "".join(sign for one, sign in pairs if one and one.gap and one.gap.within(comparison.margin))


def _giving_up(comparison: Comparison) -> str:
    """Rates of "unanswerable", an answer that VizWiz rewards: those of the first row and the extremes."""
    rates = {
        f"{method} at {keep}": outcome.subscores[UNANSWERABLE]
        for (method, keep, _), outcome in comparison.outcomes.items()
        if UNANSWERABLE in outcome.subscores
    }
    if not rates:
        return ""
    told = [next(iter(rates)), min(rates, key=rates.__getitem__), max(rates, key=rates.__getitem__)]
    shown = (f"{name} {one(rates[name])} %" for name in dict.fromkeys(told))
    return f"VizWiz rewards giving up; {UNANSWERABLE}, first row, least and most: {', '.join(shown)}."


def answered(outcomes: Mapping[str, Outcome]) -> str:
    """The number of answers and of images of each task, as a sentence."""
    told = (f"{task} {len(one.samples):,} ({len(set(one.images)):,})" for task, one in outcomes.items())
    return f"Answers per task (images): {', '.join(told)}."


FEW = 20  # images below which a bootstrap over them is too narrow


def _doubts(vanilla: Mapping[str, Outcome]) -> list[str]:
    """Notes on outcomes of the untouched model with which the table says little."""
    lines = []
    if nothing := [task for task, one in vanilla.items() if one.score == 0]:
        lines.append(
            f"The untouched model scores 0 on {', '.join(nothing)}: shares of it say nothing there. "
            "Check the model, its chat template and the prompt."
        )
    images = {image for one in vanilla.values() for image in one.images}
    if len(images) < FEW:
        lines.append(f"Few images ({len(images)}): take intervals, marks and significance as rough.")
    return lines


def notes(comparison: Comparison) -> list[str]:
    """Notes for the reader: mixed protocols, budgets, marks, empty cells, adaptive rows; one per line."""
    lines = [f"Mixed protocols, not comparable: {told}" for told in comparison.mixed]
    lines += comparison.remarks
    if comparison.rows[0].tokens is not None:
        lines.append(f"Budgets are {MEANING[comparison.match]}.")
    if comparison.metrics:
        named = (f"{task} {comparison.metrics[task]}" for task in comparison.tasks)
        lines.append(f"Scores, in percent: {', '.join(named)}.")
    if outcomes := {key[2]: one for key, one in comparison.outcomes.items() if key[0] == VANILLA}:
        lines.append(answered(outcomes))
        lines += _doubts(outcomes)
    if giving_up := _giving_up(comparison):
        lines.append(giving_up)
    signs = "".join(marks(comparison, row) for row in comparison.rows)
    rivals = {AS_VANILLA: f"{AS_VANILLA} {VANILLA}", AS_REFERENCE: f"{AS_REFERENCE} {comparison.reference}"}
    if shown := [name for sign, name in rivals.items() if sign in signs]:
        lines.append(
            f"Equivalent to {' or '.join(shown)}: the whole 95 % interval of {AVERAGE} is within "
            f"{comparison.margin:g} points of it."
        )
    contrasts = [one for row in comparison.rows for one in (row.vanilla, row.reference) if one and one.gap]
    if contrasts:
        lines.append(
            "Intervals are paired bootstrap intervals over images, not corrected. "
            f"{BEYOND} a significant difference: at 5 % after Holm's correction over the table."
        )
    if trained := dict.fromkeys(row.method for row in comparison.rows if row.trained):
        lines.append(
            f"One seed: {', '.join(trained)} "
            f"{'are one network each' if len(trained) > 1 else 'is one network'}, trained once; "
            "another training may give another result, and the intervals do not cover that."
        )
    lines += _draws(comparison)
    if adaptive := dict.fromkeys(row.method for row in comparison.rows if row.adaptive):
        lines.append(f"Adaptive, spends what it likes at any budget: {', '.join(adaptive)}.")
    lines += [*_elsewhere(comparison), *_choices(comparison), *_batches(comparison)]
    reasons: dict[str, list[str]] = {}
    for (method, keep, task), why in comparison.impossible.items():
        reasons.setdefault(f"{method} at {keep}: {why}", []).append(task)
    lines += _no_shares(comparison)
    every = len(comparison.tasks)
    for reason, tasks in reasons.items():
        where = "" if len(tasks) == every else f" ({', '.join(tasks)})"
        lines.append(f"{MISSING} {reason}{where}")
    return lines


def _no_shares(comparison: Comparison) -> list[str]:
    """Rows with all scores and without an average: their vanilla scores 0 on a task on which they do not."""
    whole = {row.method: row.scores for row in comparison.rows if row.untouched}
    found: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.average is None and row.vanilla and len(row.scores) == len(comparison.tasks):
            theirs = whole[row.vanilla.rival]
            zero = ", ".join(task for task, score in row.scores.items() if score > 0 and not theirs[task] > 0)
            found.setdefault(f"{row.vanilla.rival} scores 0 ({zero})", []).append(
                f"{row.method} at {row.keep}"
            )
    return [
        f"{MISSING} {AVERAGE}: there is no share of zero, {why}: {', '.join(rows)}."
        for why, rows in found.items()
    ]


def _elsewhere(comparison: Comparison) -> list[str]:
    """Rows whose kept tokens were selected by another model."""
    found: dict[str, list[str]] = {}
    for name, facts in comparison.methods.items():
        if source := facts.get("indices from"):
            found.setdefault(source, []).append(name)
    return [
        f"Chosen on another model, {source}, at a cost that is not counted: {', '.join(names)}."
        for source, names in found.items()
    ]


def _draws(comparison: Comparison) -> list[str]:
    """Rows that are means over several random draws of the same method."""
    drawn = {key[0]: len(one.draws) for key, one in comparison.outcomes.items() if len(one.draws) > 1}
    told = ", ".join(f"{method} {count}" for method, count in drawn.items())
    return [f"Means over random draws: {told}."] if drawn else []


def _choices(comparison: Comparison) -> list[str]:
    """Choices of methods on this model that their papers and official code leave open."""
    found: dict[str, list[str]] = {}
    for name, facts in comparison.methods.items():
        for choice in facts.get("choices", ()):
            found.setdefault(choice, []).append(name)
    told = "; ".join(f"{choice} ({', '.join(names)})" for choice, names in found.items())
    return [f"On this model: {told}."] if told else []


def _batches(comparison: Comparison) -> list[str]:
    """Cells that ran in smaller batches than others."""
    sizes = [one.batch for one in comparison.outcomes.values() if one.batch]
    smaller = [
        f"{outcome.batch} for {method} at {keep} ({task})"
        for (method, keep, task), outcome in comparison.outcomes.items()
        if outcome.batch and outcome.batch < max(sizes)
    ]
    return [f"Samples in batches of {max(sizes)}, but of {', '.join(smaller)}."] if smaller else []


def headlines(comparison: Comparison) -> list[str]:
    """One sentence per budget: the first row, the next or the reference, and the interval between them."""
    ranked = (block for block in blocks(comparison)[1:] if block.rows[0].average is not None)
    return [_headline(block) for block in ranked if not block.rows[0].adaptive]


def _headline(block: Block) -> str:
    first, other = block.rows[0], block.other
    share = f"{one(first.average)} % of the untouched model's score"
    said = f"{first.method} keeps {share} with {block.budget}"
    if not block.tokens:
        said = f"{first.method} has {one(first.average)} % of the baseline's score"
    if other is None or other.average is None:
        return f"{said}."
    gap = f" ({first.method} {block.ahead})" if block.ahead else ""
    return f"{said}; {other.method} {one(other.average)} %{gap}."


def header(comparison: Comparison) -> list[str]:
    """Column names of `table_rows`."""
    against = [f"vs {name}, 95 %" for name in rivals_of(comparison)]
    return ["method", "keep", *comparison.tasks, AVERAGE, "tokens/layer", "left", "FLOPs %", *against]


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The table as text, one list per row under `header`."""
    return [
        [name_of(row), str(row.keep or MISSING), *figures_of(comparison, row), *gaps_of(comparison, row)]
        for block in blocks(comparison)
        for row in block.rows
    ]


def rivals_of(comparison: Comparison) -> list[str]:
    """The rivals that rows are compared with, one per column."""
    if all(row.untouched for row in comparison.rows):
        return []
    others = any(row.reference for row in comparison.rows)
    return [VANILLA, comparison.reference] if others and comparison.reference else [VANILLA]


def name_of(row: ComparisonRow) -> str:
    """The name of a row, with its distinguishing properties."""
    told = [word for word, applies in (("adaptive", row.adaptive), ("one seed", row.trained)) if applies]
    return f"{row.method} ({', '.join(told)})" if told else row.method


def figures_of(comparison: Comparison, row: ComparisonRow) -> list[str]:
    """Scores, average with its marks, then cost."""
    scores = [one(row.scores.get(task)) for task in comparison.tasks]
    average = one(row.average) + marks(comparison, row)
    return [*scores, average, one(row.tokens), one(row.left), one(row.flops)]


def gaps_of(comparison: Comparison, row: ComparisonRow) -> list[str]:
    """The row's differences from the rivals, marked if significant; empty if there are none."""
    contrasts = (row.vanilla, row.reference)[: len(rivals_of(comparison))]
    return [f"{one.gap}{BEYOND if one.significant else ''}" if one and one.gap else "" for one in contrasts]


# Results on the hard questions ------------------------------------------------------------------------------


def hard_header(comparison: Comparison) -> list[str]:
    """Column names of `hard_rows`."""
    return ["method", "keep", *comparison.tasks, AVERAGE]


def hard_rows(comparison: Comparison) -> list[list[str]]:
    """Scores on the hard questions: per budget a line of counts, then the methods, the best first."""
    lines = []
    for block in blocks(comparison)[1:]:
        told = {each.task: each for each in comparison.difficulty if each.keep == block.keep}
        if not told:
            continue
        counts = [f"{told[t].hard} of {told[t].easy + told[t].hard}" if t in told else MISSING
                  for t in comparison.tasks]  # fmt: skip
        lines.append([hard_title(comparison, block.keep), str(block.keep or MISSING), *counts, ""])
        shares = hard_shares(comparison, block.keep)
        named = dict.fromkeys(name for each in told.values() for name in each.scores)
        for name in sorted(named, key=lambda name: -shares.get(name, -1.0)):
            scores = [one(told[t].scores.get(name)) if t in told else MISSING for t in comparison.tasks]
            lines.append([name, str(block.keep or MISSING), *scores, one(shares.get(name))])
    return lines


def hard_title(comparison: Comparison, keep: Keep) -> str:
    """The title of the hard questions of a budget."""
    method = next(each.method for each in comparison.difficulty if each.keep == keep)
    return f"questions {method} misses"
