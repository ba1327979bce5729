"""Pictures of a recipe: the groups of some samples (paper Figure 2), the tokens that rows kept (5 and 6)."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from bench.comparison import Comparison
from bench.figures import answered, grouped, side_by_side
from bench.gallery import show
from bench.pictures import save
from bench.recipe.plan import PICTURES, Plan
from bench.recipe.schema import Drawing
from compress.models import MLLM
from compress.samples import Sample
from evosearch import GROUPERS, Grouping, pick


def draw(plan: Plan, wanted: Drawing, comparison: Comparison | None) -> list[Path]:
    """Write a PNG per sample into the results' folder; ValueError for a task that was not asked."""
    task = next((task for task in plan.answers.data if task.name == wanted.task), None)
    if task is None:
        raise ValueError(
            f"draw.task={wanted.task}: choose one of the recipe's {', '.join(plan.recipe.tasks)}"
        )
    mllm, folder = plan.mllm, plan.folder / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, sample in enumerate(plan.answers.data[task][: wanted.samples]):
        if wanted.what == "groups":
            sheet = divided(mllm, sample, wanted.groupers, min(plan.budgets))
        else:
            assert comparison is not None
            sheet = side_by_side(show(sample, mllm), answered(comparison, wanted.task, sample.id))
        written.append(save(sheet, folder / f"{wanted.what}-{wanted.task}-{place}.png"))
    return written


def divided(mllm: MLLM, sample: Sample, groupers: tuple[str, ...], keep: int) -> Figure:
    """The groups by several groupers."""
    embedded = mllm.embed(sample.image_at(mllm.image_side), sample.question, sample.answers[0])
    vectors = embedded.embeds[embedded.visual].float().cpu().numpy()
    words = mllm.decoder.embed_tokens.weight.detach().float().cpu().numpy()
    spaces: dict[str, Grouping] = {
        name: pick(GROUPERS, name, "grouper", groups=keep, anchors=words, grid=embedded.grid, seed=0)(vectors)
        for name in groupers
    }
    return grouped(show(sample, mllm), spaces)
