"""What a comparison leaves behind: results.json, tables, pictures and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL.Image import Image

from baselines import METHODS
from bench.comparison import VANILLA, Comparison
from bench.environment import environment
from bench.forms import csv_text, latex, markdown
from bench.pictures import fronts, groups, kept_tokens, save, strip, trace
from bench.report import html
from bench.results import results
from compress.files import replacing
from compress.fitness import AnswerLoss
from compress.models import MLLM
from compress.samples import Sample
from evosearch import Evolution, Vocabulary, describe, search


def write(
    comparison: Comparison,
    mllm: MLLM,
    out: Path,
    *,
    title: str,
    curves: Sequence[tuple[str, Path]] = (),
    facts: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
) -> None:
    """Write the tables (`write_tables`), pictures of kept tokens and report.html to `out`.

    `facts` (told beside the environment), `commands` and `curves` (captions with PNG files) go into the
    report. Pictures and report need images of one grid: a model that cuts images into tiles, or into as many
    tokens as their size asks for, gets the tables only.
    """
    told = environment() | {"model": mllm.name, "fingerprint": mllm.fingerprint()[:16]} | dict(facts or {})
    front = write_tables(comparison, out, told)
    whole = (one for (method, _, _), one in comparison.outcomes.items() if method == VANILLA)
    if any(len(kept) != mllm.tile_tokens for outcome in whole for kept in outcome.kept):
        return
    for task in comparison.tasks:
        save(side_by_side(comparison, mllm, task), out / "pictures" / f"kept-{task}.png")
    page = html(
        comparison,
        title=title,
        grid=mllm.grid,
        facts=told,
        commands=commands,
        curves=[("accuracy against visual tokens", front), *curves],
        about=describe(METHODS),
    )
    put(out / "report.html", page)


def write_tables(comparison: Comparison, out: Path, facts: Mapping[str, str]) -> Path:
    """Write results.json, table.md, table.csv, table.tex and a plot, whose path is returned.

    results.json has a row per method, budget and task, the summary of every row and of the hard questions,
    and why cells are empty.
    """
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    put(out / "results.json", json.dumps(results(comparison, facts), indent=1) + "\n")
    put(out / "table.md", markdown(comparison))
    put(out / "table.csv", csv_text(comparison))
    put(out / "table.tex", latex(comparison))
    return save(fronts(comparison), pictures / "fronts.png")


def side_by_side(comparison: Comparison, mllm: MLLM, task: str, place: int = 0) -> Image:
    """One sample of a task under every method at the smallest budget (paper Figures 5 and 6)."""
    sample = comparison.samples[task][place]
    keep = min(row.keep for row in comparison.rows)
    panels = []
    for row in comparison.rows:
        outcome = comparison.outcomes.get((row.method, row.keep, task))
        if outcome and (row.keep == keep or row.untouched):
            caption = f"{row.method}: {outcome.predictions[place]}"
            panels.append((caption, kept_tokens(sample.image, mllm.grid, outcome.kept[place])))
    return strip(panels, f"{sample.question} (gold: {sample.answers[0]}; {keep} tokens)")


def draw_search(mllm: MLLM, sample: Sample, folder: Path) -> None:
    """The paper's search on one sample: its groups (Figure 2), the kept tokens and the trace of losses."""
    embedded = mllm.embed(sample.image_at(mllm.image_side), sample.question, sample.answers[0])
    words = mllm.decoder.embed_tokens.weight.detach().float().cpu().numpy()
    keep = max(1, round(mllm.visual_tokens / 9))
    space = Vocabulary(groups=keep, anchors=words)(embedded.embeds[embedded.visual].float().cpu().numpy())
    found = search(space, AnswerLoss(mllm, embedded), Evolution())
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{sample.question} -> {sample.answers[0]}"
    save(groups(sample.image, embedded.grid, space, found.indices), folder / "search-groups.png")
    save(kept_tokens(sample.image, embedded.grid, found.indices.tolist()), folder / "search-kept.png")
    save(trace(found.logbook, title), folder / "search-trace.png")


def put(path: Path, text: str) -> None:
    """Write a text file at once."""
    with replacing(path) as part:
        part.write_text(text)
