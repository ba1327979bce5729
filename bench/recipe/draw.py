"""Pictures of a recipe: the groups of some samples (paper Figure 2), the tokens that rows kept (5 and 6)."""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Image

from bench.comparison import VANILLA, Comparison
from bench.pictures import groups, kept_tokens, save, strip
from bench.recipe.plan import Plan
from bench.recipe.schema import Drawing
from compress.fitness import AnswerLoss
from compress.models import MLLM
from compress.samples import Sample
from evosearch import GROUPERS, Evolution, Grouping, pick, search


def draw(plan: Plan, wanted: Drawing, comparison: Comparison | None) -> list[Path]:
    """Write a PNG per sample into the results' folder; ValueError for images that are cut into tiles."""
    task = next((task for task in plan.answers.data if task.name == wanted.task), None)
    if task is None:
        raise ValueError(
            f"draw.task={wanted.task}: choose one of the recipe's {', '.join(plan.recipe.tasks)}"
        )
    mllm, folder = plan.mllm, plan.folder / "pictures"
    if mllm.tile_tokens != mllm.visual_tokens:
        raise ValueError(f"draw: the images of {mllm.name} are not one grid of tokens, so none is drawn")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for place, sample in enumerate(plan.answers.data[task][: wanted.samples]):
        if wanted.what == "groups":
            sheet = grouped(mllm, sample, wanted.groupers, min(plan.budgets), plan.recipe.search.evaluations)
        else:
            assert comparison is not None
            sheet = kept(comparison, mllm, wanted.task, place)
        written.append(save(sheet, folder / f"{wanted.what}-{wanted.task}-{place}.png"))
    return written


def grouped(mllm: MLLM, sample: Sample, groupers: tuple[str, ...], keep: int, evaluations: int) -> Image:
    """The groups by several groupers, with a dot on the token that the search keeps of each."""
    embedded = mllm.embed(sample.image, sample.question, sample.answers[0])
    vectors = embedded.embeds[embedded.visual].float().cpu().numpy()
    words = mllm.decoder.embed_tokens.weight.detach().float().cpu().numpy()
    panels = []
    for name in groupers:
        space: Grouping = pick(
            GROUPERS, name, "grouper", groups=keep, anchors=words, grid=embedded.grid, seed=0
        )(vectors)
        found = search(space, AnswerLoss(mllm, embedded), Evolution(), budget=evaluations)
        picture = groups(sample.image, embedded.grid, space, found.indices)
        panels.append((f"{name}: {len(space)} groups", picture))
    return strip(panels, f"{sample.question} ({sample.answers[0]})")


def kept(comparison: Comparison, mllm: MLLM, task: str, place: int) -> Image:
    """One sample under every row at every budget."""
    sample = comparison.samples[task][place]
    panels = []
    for row in comparison.rows:
        outcome = comparison.outcomes.get((row.method, row.keep, task))
        if outcome:
            name = f"all {row.keep} tokens" if row.method == VANILLA else f"{row.method}, {row.keep}"
            caption = f"{name}: {outcome.predictions[place]}"
            panels.append((caption, kept_tokens(sample.image, mllm.grid, outcome.kept[place], cell=20)))
    return strip(panels, f"{sample.question} (gold: {sample.answers[0]})")
