"""`evocomp draw`: figures for papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.commands.options import SEED, Count, OutFile, keep_option, keeps_option, video_options
from bench.console import model_options, option, progress, say
from bench.evaluation.opening import asked, budget, drawn_at, load_model, open_visual
from evosearch.registry import specs

if TYPE_CHECKING:
    from deap.tools import Logbook
    from matplotlib.figure import Figure

    from compress.keep import Keep
    from compress.models.loading import Anyres

F = TypeVar("F", bound=Callable[..., Any])


def out_option(default: str) -> Callable[[F], F]:
    return option(
        "--out", default=default, type=OutFile(".png", ".pdf", ".svg"), help="PNG, PDF or SVG file to write."
    )


def written(figure: Figure, out: Path) -> None:
    from bench.report.pictures import save

    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"drawn in {save(figure, out)}")


@click.group()
def draw() -> None:
    """Draw kept tokens, groups, searches and trainings for a paper, as PNG, PDF or SVG.

    \b
    Example:
      evocomp draw kept micro:3 "what color is the star ?" --methods fastv,evocomp --keep 48,16
    """


@draw.command()
@click.argument("image")
@click.argument("questions", nargs=-1, required=True, metavar="QUESTION...")
@option(
    "--methods",
    default="random,grid,fastv,visionzip,evocomp",
    help="Methods, separated by commas: NAME or NAME:option=value,... (evocomp list methods).",
)
@keeps_option("48,32,16")
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@option("--answer", help="Correct answer to one question; marks right and wrong answers. Default: no marks.")
@video_options
@out_option("kept.png")
@model_options
def kept(
    image: str, questions: tuple[str, ...], methods: str, keeps: list[Keep], compressor: str | None,
    answer: str | None, frames: int | None, rate: float | None, out: Path, model: str, device: str,
    dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Draw the tokens that several methods keep at several budgets (paper, Figures 5 and 6).

    IMAGE is an image or video file, a folder of frames, or micro:SEED, busy:SEED or video:SEED for a
    generated scene. A video is drawn as a film strip. Each method has a column. Merged tokens
    have a coloured corner. With several questions, each question has a row.

    \b
    Example:
      evocomp draw kept micro:3 "what color is the star ?" --methods fastv,evocomp --keep 48,16
    """
    picture, questions = open_visual(image, 0, frames, rate), tuple(map(asked, questions))
    if answer and len(questions) > 1:
        raise ValueError("--answer is for one question: leave it out")
    from bench.evaluation.comparison import VANILLA
    from bench.evaluation.compressors import selectors_for
    from bench.report.figures import by_question, side_by_side
    from bench.report.gallery import show
    from bench.report.inspection import looks
    from compress.samples import Sample

    named = [spec for spec in specs(methods) if spec != VANILLA]
    selectors = selectors_for(named, model, compressor)
    mllm = load_model(model, device, dtype, anyres)
    picture = drawn_at(image, picture, mllm.image_side)
    for keep in keeps:
        budget(keep, mllm)
    samples = [Sample(image, picture, question, (answer,) if answer else ()) for question in questions]
    runs, problems = zip(*(looks(mllm, sample, selectors, keeps) for sample in samples), strict=True)
    for run, told in {run: told for each in problems for run, told in each.items()}.items():
        say(f"{run}: {told}")
    shown = [show(sample, mllm) for sample in samples]
    written(by_question(shown, runs) if len(shown) > 1 else side_by_side(shown[0], runs[0]), out)


@draw.command()
@click.argument("image")
@click.argument("question")
@option(
    "--groupers",
    default="vocabulary,dpc-knn,k-means,grid,random",
    help="Groupers, separated by commas: NAME[:option=value,...] (evocomp list groupers).",
)
@keep_option("Groups")
@option("--seed", default=0, type=SEED, help="Random seed.")
@video_options
@out_option("groups.png")
@model_options
def groups(
    image: str, question: str, groupers: str, keep: Keep | None, seed: int,
    frames: int | None, rate: float | None, out: Path, model: str,
    device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Draw the groups that several groupers make; a search keeps one token per group (paper, Figure 2).

    IMAGE is an image or video file, a folder of frames, or micro:SEED, busy:SEED or video:SEED for a
    generated scene. `evocomp search --out` also marks the kept tokens.

    \b
    Example:
      evocomp draw groups micro:3 "what color is the star ?" --groupers vocabulary,dpc-knn --keep 16
    """
    picture, question = open_visual(image, 0, frames, rate), asked(question)
    from bench.report.figures import grouped
    from bench.report.gallery import show
    from bench.report.inspection import spaces
    from compress.samples import Sample

    mllm = load_model(model, device, dtype, anyres)
    picture = drawn_at(image, picture, mllm.image_side)
    sample = Sample(image, picture, question, ())
    found = spaces(mllm, sample, specs(groupers), budget(keep, mllm), seed)
    written(grouped(show(sample, mllm), found), out)


@draw.command("search")
@click.argument("image")
@click.argument("question")
@option("--answer", help="Gold response. Default: the untouched model's own answer.")
@option(
    "--strategies",
    default="evolution,random",
    help="Strategies, separated by commas: NAME[:option=value,...] (evocomp list strategies).",
)
@option("--grouper", default="vocabulary", help="Grouper: NAME[:option=value,...] (evocomp list groupers).")
@keep_option("Tokens to keep")
@option("--evaluations", type=Count(1), default=408, help="Maximum number of candidates per search.")
@option("--seeds", type=Count(1), default=3, help="Number of searches per strategy.")
@video_options
@out_option("search.png")
@model_options
def searches(
    image: str, question: str, answer: str | None, strategies: str, grouper: str, keep: Keep | None,
    evaluations: int, seeds: int, frames: int | None, rate: float | None, out: Path, model: str, device: str,
    dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Draw the best loss over evaluations for several search strategies, on one sample.

    IMAGE is an image or video file, a folder of frames, or micro:SEED, busy:SEED or video:SEED for a
    generated scene.

    \b
    Example:
      evocomp draw search micro:3 "what color is the star ?" --strategies evolution,hill-climb --seeds 2
    """
    picture, question = open_visual(image, 0, frames, rate), asked(question)
    from bench.report.figures import traces
    from compress.labels.single import search_sample
    from evosearch import STRATEGIES, pick

    named = specs(strategies)
    for spec in named:
        pick(STRATEGIES, spec, "strategy")  # report a wrong name before the work starts
    mllm = load_model(model, device, dtype, anyres)
    picture = drawn_at(image, picture, mllm.image_side)
    books: dict[str, list[Logbook]] = {}
    with progress("search", "searches") as report:
        for spec in named:
            books[spec] = []
            for seed in range(seeds):
                found = search_sample(
                    mllm, picture, question, answer, budget(keep, mllm),
                    grouper=grouper, strategy=spec, evaluations=evaluations, seed=seed,
                )  # fmt: skip
                books[spec].append(found.result.logbook)
                report(sum(map(len, books.values())), len(named) * seeds)
    written(traces(books, f'"{question}" -> "{found.response}"', found.loss_full), out)


@draw.command()
@click.argument("compressors", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option("training.png")
def training(compressors: tuple[Path, ...], out: Path) -> None:
    """Draw loss and validation score over epochs for COMPRESSORS, the folders of `evocomp train`.

    \b
    Example:
      evocomp draw training compressor --out training.pdf
    """
    from bench.report.figures import training as figure
    from bench.report.inspection import curves

    written(figure({folder.name: curves(folder) for folder in compressors}), out)


COMMANDS = {"draw": draw}
