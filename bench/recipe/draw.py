"""Pictures of a recipe: the groups of some samples (paper Figure 2), the tokens that rows kept (5 and 6)."""

from __future__ import annotations

from pathlib import Path

from bench.evaluation.comparison import Comparison
from bench.recipe.plan import PICTURES, Plan
from bench.recipe.schema import Drawing
from bench.report.figures import answered, grouped, side_by_side
from bench.report.gallery import show
from bench.report.inspection import spaces
from bench.report.pictures import save


def draw(plan: Plan, wanted: Drawing, comparison: Comparison | None) -> list[Path]:
    """Write a PNG per sample into the results' folder."""
    task = next(task for task in plan.answers.data if task.name == wanted.task)
    mllm, folder = plan.mllm, plan.folder / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, sample in enumerate(plan.answers.data[task][: wanted.samples]):
        if wanted.what == "groups":
            divided = spaces(mllm, sample, wanted.groupers, min(plan.budgets), seed=0)
            sheet = grouped(show(sample, mllm), divided)
        else:
            assert comparison is not None
            sheet = side_by_side(show(sample, mllm), answered(comparison, wanted.task, sample.id))
        written.append(save(sheet, folder / f"{wanted.what}-{wanted.task}-{place}.png"))
    return written
