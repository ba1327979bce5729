"""The output files of a comparison: results.json, tables, pictures and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from baselines import METHODS
from bench.evaluation.comparison import Comparison
from bench.evaluation.evaluate import Stage
from bench.evaluation.history import put_json
from bench.evaluation.merge import merge
from bench.evaluation.origin import Origin
from bench.evaluation.origin import joined as join_origins
from bench.evaluation.question import Sensitivity
from bench.report.figures import answered, side_by_side
from bench.report.forms import csv_text, latex, markdown
from bench.report.gallery import Gallery, gallery, read_gallery, save_gallery, show
from bench.report.gallery import joined as join_galleries
from bench.report.page import SAMPLES, Page, html
from bench.report.pictures import fronts, grouping, overlay, png, save, trace
from bench.report.question import of_comparison, read_saved
from bench.report.question import save as save_questions
from bench.report.results import results
from compress.files import replacing
from compress.labels.single import SampleSearch
from compress.models.loading import MLLM
from compress.samples import Sample
from evosearch import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

FRONT = "accuracy against visual tokens"


def write(
    comparison: Comparison, mllm: MLLM, out: Path, origin: Origin, seconds: Mapping[str, float] | None = None
) -> None:
    """Write the inputs of `evocomp report` except cells, tables (`write_tables`), pictures and report.html.

    Model, reference and difficulty method are added to the origin. `seconds` are the times of its parts, by
    name.
    """
    kernel = str(getattr(mllm.model.config, "_attn_implementation", "unknown"))
    facts = of_model(mllm) | {"attention kernel": kernel} | origin.facts
    front = write_tables(comparison, out, facts)
    shown = gallery(comparison, mllm)
    save_gallery(shown, out)
    for task in comparison.tasks:
        sample = next(iter(shown[task].values()))
        figure = side_by_side(sample, answered(comparison, task, sample.sample))
        save(figure, out / "pictures" / f"kept-{task}.png")
    difficulty = next((one.method for one in comparison.difficulty), None)
    kept = replace(
        origin, facts=facts, reference=comparison.reference, difficulty=difficulty, margin=comparison.margin
    ).save(out, seconds)
    questions = of_comparison(comparison)
    save_questions(questions, out)
    page = report(comparison, kept, shown, questions=questions, front=front.read_bytes() if front else None)
    put(out / "report.html", html(page))


def of_model(mllm: MLLM) -> dict[str, str]:
    """The facts that identify the model of a result."""
    return {"model": mllm.name, "fingerprint": mllm.fingerprint()[:16]}


def report(
    comparison: Comparison, origin: Origin, shown: Gallery, samples: int = SAMPLES,
    questions: Mapping[str, Sensitivity] | None = None, front: bytes | None = None,
) -> Page:  # fmt: skip
    """The content of a comparison's report; `front` is its plot as a PNG, if it exists already."""
    counted = comparison.rows[0].tokens is not None
    plots = {FRONT: front or png(fronts(comparison))} if counted else {}
    plots |= {name: Path(path).read_bytes() for name, path in origin.plots.items()}
    used = {_name(row.method) for row in comparison.rows}
    about = {name: line for name, line in describe(METHODS).items() if name in used}
    return Page(comparison, origin, shown, plots, about, samples, questions or {})


def merged(
    folders: Sequence[Path], title: str = "", *, reference: str | None = None, difficulty: str | None = None,
    margin: float | None = None, mixed: bool = False,
) -> tuple[Comparison, Origin]:  # fmt: skip
    """Several comparisons as one, from their folders; an argument of None is taken from the first folder.

    ValueError for folders that must not share a table, unless `mixed` allows it.
    """
    origin = join_origins([Origin.read(folder) for folder in folders], title)
    comparison = merge(
        folders, reference=reference or origin.reference, difficulty=difficulty or origin.difficulty,
        margin=margin or origin.margin, mixed=mixed,
    )  # fmt: skip
    return comparison, origin


def read_galleries(folders: Sequence[Path]) -> Gallery:
    """The samples of several comparisons' galleries."""
    return join_galleries([read_gallery(folder) for folder in folders])


def read_questions(folders: Sequence[Path]) -> dict[str, Sensitivity]:
    """The dependence of kept tokens on the question in several comparisons, by row and task."""
    return {row: one for folder in folders for row, one in read_saved(folder).items()}


def _name(row: str) -> str:
    """The method in a row's name, which may be longer: `fastv:layer=3`, `evocomp+@1, random labels`."""
    return "".join(takewhile(lambda sign: sign.isalnum() or sign in "+-_", row))


def write_tables(comparison: Comparison, out: Path, facts: Mapping[str, str]) -> Path | None:
    """Write results.json, table.md, table.csv, table.tex and a plot; return the plot's path.

    There is no plot if tokens were not counted. results.json has a row per method, budget and task, the
    summary of every row and of the hard questions, and the reasons of empty cells.
    """
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    put_json(out / "results.json", results(comparison, facts))
    put(out / "table.md", markdown(comparison))
    put(out / "table.csv", csv_text(comparison))
    put(out / "table.tex", latex(comparison))
    if comparison.rows[0].tokens is None:
        return None
    return save(fronts(comparison), pictures / "fronts.png")


def draw_search(mllm: MLLM, sample: Sample, found: SampleSearch, folder: Path) -> dict[str, str]:
    """Draw a search on a sample: groups.png (paper, Figure 2), kept.png and trace.png in `folder`.

    Returns the path of each picture by its name.
    """
    shown = show(sample, mllm)
    drawn: dict[str, Image | Figure] = {
        "kept": overlay(shown, Stage(0, found.kept)),
        "groups": grouping(shown, found.groups, found.kept),
        "trace": trace(found.result.logbook, f'"{sample.question}" -> "{found.response}"'),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return {name: str(save(picture, folder / f"{name}.png")) for name, picture in drawn.items()}


def put(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
