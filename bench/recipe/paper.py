"""Comparison of measured numbers with the paper's: sign, rank order and size of differences.

Only shares of the untouched model's score are compared, never scores of different benchmarks. The paper
gives no intervals, so only the measured side of "same sign" has an uncertainty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from bench.evaluation.stats import Interval
from bench.recipe.findings import Finding
from bench.recipe.schema import RECIPES
from compress.keep import Keep, count_of
from evosearch.registry import unknown

SAME, OPPOSITE, NONE = "same sign", "opposite sign", "no difference"


@cache
def published() -> dict[str, Any]:
    """All numbers of the paper by table or figure."""
    told: dict[str, Any] = json.loads((RECIPES / "paper.json").read_text())
    return told


@dataclass(frozen=True)
class Paper:
    """One table of the paper: scores by budget, row and task."""

    model: str
    tokens: int
    vanilla: Mapping[str, float]
    retain: Mapping[int, Mapping[str, Mapping[str, float]]]

    @classmethod
    def of(cls, name: str) -> Paper:
        """The table `name`; ValueError if the paper has no such table, or if the table has no scores."""
        told = published().get(name, {})
        if "retain" not in told:
            scored = [key for key, value in published().items() if "retain" in value]
            raise ValueError(unknown("table of the paper", name, scored))
        retain = {int(keep): rows for keep, rows in told["retain"].items()}
        return cls(told["model"], told["visual_tokens"], told["vanilla"], retain)

    def score(self, row: str, keep: Keep, task: str) -> float | None:
        return self.retain.get(count_of(keep, self.tokens), {}).get(row, {}).get(task)

    def share(self, row: str, keep: Keep, tasks: Sequence[str]) -> float | None:
        """Mean over the tasks of the row's score / vanilla's score, in percent; None if one is missing."""
        scores = [self.score(row, keep, task) for task in tasks]
        if not scores or any(score is None or task not in self.vanilla
                             for score, task in zip(scores, tasks, strict=True)):  # fmt: skip
            return None
        return fmean(
            100 * score / self.vanilla[task]
            for score, task in zip(scores, tasks, strict=True)
            if score is not None
        )


@dataclass(frozen=True)
class Sign:
    """One row minus the reference, published and measured, in points of the mean share of vanilla."""

    row: str
    keep: Keep  # the paper's
    paper: float
    measured: Interval
    significant: bool
    single: bool = False  # one network against one: other trainings are not covered

    @property
    def agrees(self) -> bool:
        return self.paper * self.measured.difference > 0

    @property
    def words(self) -> str:
        if abs(self.paper) < 0.05:
            return "the paper has no difference"
        if self.measured.difference == 0:
            return NONE
        told = SAME if self.agrees else OPPOSITE
        seed = ", one seed" if self.single else ""
        return f"{told}, {'' if self.significant else 'not '}significant{seed}"


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two rankings of the rows of one budget; correlations are None for fewer than 3 rows."""

    keep: Keep
    rows: int
    kendall: float | None
    kendall_p: float | None
    spearman: float | None
    off: float  # mean absolute difference of the mean shares, in points


def signs(found: Sequence[Finding], paper: Paper, tasks: Sequence[str], reference: str) -> list[Sign]:
    """The differences from the reference of all rows that the paper has too."""
    listed = []
    for one in found:
        ours, whole = (paper.share(row, one.paper_keep, tasks) for row in (one.row, reference))
        if one.gap and ours is not None and whole is not None and one.row != reference:
            listed.append(Sign(one.row, one.paper_keep, ours - whole, one.gap, one.significant, one.single))
    return listed


def orders(found: Sequence[Finding], paper: Paper, tasks: Sequence[str]) -> list[RankAgreement]:
    """Per budget, the agreement of the paper's order of rows by mean share with the measured one."""
    from scipy.stats import kendalltau, spearmanr  # imported late: takes half a second

    made = []
    for keep in dict.fromkeys(one.paper_keep for one in found):
        pairs = [
            (share, one.average)
            for one in found
            if one.paper_keep == keep and one.average is not None
            and (share := paper.share(one.row, keep, tasks)) is not None
        ]  # fmt: skip
        if len(pairs) < 2:
            continue
        theirs, ours = zip(*pairs, strict=True)
        off = fmean(abs(a - b) for a, b in pairs)
        varied = len(pairs) > 2 and len(set(theirs)) > 1 and len(set(ours)) > 1
        kendall = kendalltau(theirs, ours) if varied else None
        made.append(
            RankAgreement(
                keep, len(pairs),
                float(kendall.statistic) if kendall else None,
                float(kendall.pvalue) if kendall else None,
                float(spearmanr(theirs, ours).statistic) if varied else None,
                off,
            )
        )  # fmt: skip
    return made


def verdict(found: Sequence[Sign], ranks: Sequence[RankAgreement], paper: Paper, model: str) -> list[str]:
    """The result of the comparison with the paper, in sentences."""
    if not found and not ranks:
        return []
    lines = [
        f"The paper measured {paper.model} on the real benchmarks; this page has {model} on the miniatures. "
        "Signs and orders are comparable, sizes of differences are not."
    ]
    for keep in dict.fromkeys([*(one.keep for one in found), *(one.keep for one in ranks)]):
        told = [one for one in found if one.keep == keep and abs(one.paper) >= 0.05]
        parts = []
        if told:
            same = [one for one in told if one.agrees]
            clear = [one for one in told if one.significant]
            part = f"{len(same)} of {len(told)} differences from the reference have the paper's sign"
            wrong = [one.row for one in clear if not one.agrees]
            part += f"; of the {len(clear)} significant ones, {len(clear) - len(wrong)} do" if clear else ""
            part += "; none is significant" if not clear else ""
            part += f" (not: {', '.join(wrong)})" if wrong else ""
            part += "; of one seed each" if any(one.single for one in told) else ""
            parts.append(part)
        for one in ranks:
            if one.keep == keep and one.kendall is not None and one.kendall_p is not None:
                doubt = "" if one.kendall_p < 0.05 else ", not significant"
                parts.append(
                    f"over {one.rows} rows Kendall's tau is {one.kendall:+.2f} (p = {one.kendall_p:.2g}"
                    f"{doubt}), Spearman's rho {one.spearman:+.2f}"
                )
            if one.keep == keep:
                parts.append(
                    f"the average scores of measurement and paper differ by {one.off:.1f} points on average"
                )
        lines.append(f"At the paper's {keep} tokens: {'; '.join(parts)}.")
    return lines
