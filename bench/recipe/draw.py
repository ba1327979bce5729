"""Pictures of a recipe: groups (paper Figure 2), kept tokens by row (Figure 6) or by question (Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.evaluation.comparison import Comparison
from bench.recipe.plan import PICTURES, Plan
from bench.recipe.schema import Drawing
from bench.report.figures import answered, by_question, grouped, side_by_side
from bench.report.gallery import show
from bench.report.inspection import spaces
from bench.report.pictures import save
from compress.samples import Sample


def draw(plan: Plan, wanted: Drawing, comparison: Comparison | None) -> list[Path]:
    """Write a PNG per sample to the results' folder; `questions` about one image share a PNG."""
    task = next(task for task in plan.answers.data if task.name == wanted.task)
    mllm, folder = plan.mllm, plan.folder / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    if wanted.what == "questions":
        assert comparison is not None
        asked = about_one_image(plan.answers.data[task], wanted.samples)
        sheet = by_question(
            [show(sample, mllm) for sample in asked],
            [answered(comparison, wanted.task, sample.id) for sample in asked],
        )
        return [save(sheet, folder / f"questions-{wanted.task}.png")]
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


def about_one_image(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` questions about the first image that has that many, or all about the image that has most."""
    by_image: dict[str, list[Sample]] = {}
    for sample in samples:
        by_image.setdefault(sample.picture_digest, []).append(sample)
    enough = (asked[:count] for asked in by_image.values() if len(asked) >= count)
    return next(enough, None) or max(by_image.values(), key=len)
