"""`evocomp draw`: figures for papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.commands.inputs import asked
from bench.commands.options import SEED, Count, OutFile, keep_option, keeps_option
from bench.console import model_options, progress, say
from bench.evaluation.opening import budget, load_model, open_image
from evosearch.registry import specs

if TYPE_CHECKING:
    from deap.tools import Logbook
    from matplotlib.figure import Figure

    from compress.keep import Keep
    from compress.models.loading import Anyres

F = TypeVar("F", bound=Callable[..., Any])


def out_option(default: str) -> Callable[[F], F]:
    return click.option("--out", default=default, show_default=True, type=OutFile(".png", ".pdf", ".svg"))


def written(figure: Figure, out: Path) -> None:
    from bench.report.pictures import save

    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"drawn in {save(figure, out)}")


@click.group()
def draw() -> None:
    """Figures for papers, as PNG, PDF or SVG: groups, kept tokens, searches, trainings.

    \b
    Example:
      evocomp draw kept micro:3 "what color is the star ?" --methods fastv,evocomp --keep 48,16
    """


@draw.command()
@click.argument("image")
@click.argument("question")
@click.option("--methods", default="random,grid,fastv,visionzip,evocomp", show_default=True,
              help="NAME or NAME:option=value,... with commas (evocomp list methods).")  # fmt: skip
@keeps_option("48,32,16")
@click.option("--compressor", help="Folder or hub name of a trained compressor; the shipped one by default.")
@click.option("--answer", help="What is right; without it no answer is marked.")
@out_option("kept.png")
@model_options
def kept(
    image: str, question: str, methods: str, keeps: list[Keep], compressor: str | None, answer: str | None,
    out: Path, model: str, device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Kept tokens of several methods, a column each, at several budgets (paper Figures 5 and 6).

    IMAGE is a file, or micro:SEED for a made scene. Merged tokens have a coloured corner.

    \b
    Example:
      evocomp draw kept micro:3 "what color is the star ?" --methods fastv,evocomp --keep 48,16
    """
    picture, question = open_image(image), asked(question)
    from baselines import KeepAll
    from bench.evaluation.comparison import VANILLA
    from bench.evaluation.compressors import selector_for, takes_compressor
    from bench.report.figures import side_by_side
    from bench.report.gallery import show
    from bench.report.inspection import look
    from compress.samples import Sample

    named = [spec for spec in specs(methods) if spec != VANILLA]
    selectors = {
        spec: selector_for(spec, model, compressor if takes_compressor(spec) else None) for spec in named
    }
    mllm = load_model(model, device, dtype, anyres)
    picture = open_image(image, mllm.image_side)  # it was opened before only to be sure that it can be
    for keep in keeps:
        budget(keep, mllm)
    sample = Sample(image, picture, question, (answer,) if answer else ())
    runs = [look(mllm, sample, VANILLA, KeepAll(), mllm.visual_tokens)]
    for spec, selector in selectors.items():
        for keep in keeps:
            try:
                runs.append(look(mllm, sample, spec, selector, keep))
            except ValueError as problem:
                say(f"{spec} at {keep}: {problem}")
    written(side_by_side(show(sample, mllm), runs), out)


@draw.command()
@click.argument("image")
@click.argument("question")
@click.option("--groupers", default="vocabulary,dpc-knn,k-means,grid,random", show_default=True,
              help="NAME[:option=value] with commas (evocomp list groupers).")  # fmt: skip
@keep_option("Groups")
@click.option("--seed", default=0, show_default=True, type=SEED)
@out_option("groups.png")
@model_options
def groups(
    image: str, question: str, groupers: str, keep: Keep | None, seed: int, out: Path, model: str,
    device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """The groups from each of which one token is kept, by several groupers (paper Figure 2).

    IMAGE is a file, or micro:SEED for a made scene. `evocomp search --out` marks the kept ones as well.

    \b
    Example:
      evocomp draw groups micro:3 "what color is the star ?" --groupers vocabulary,dpc-knn --keep 16
    """
    picture, question = open_image(image), asked(question)
    from bench.report.figures import grouped
    from bench.report.gallery import show
    from bench.report.inspection import spaces
    from compress.samples import Sample

    mllm = load_model(model, device, dtype, anyres)
    picture = open_image(image, mllm.image_side)  # it was opened before only to be sure that it can be
    sample = Sample(image, picture, question, ())
    found = spaces(mllm, sample, specs(groupers), budget(keep, mllm), seed)
    written(grouped(show(sample, mllm), found), out)


@draw.command("search")
@click.argument("image")
@click.argument("question")
@click.option("--answer", help="Gold response; without it, the untouched model's own answer.")
@click.option("--strategies", default="evolution,random", show_default=True,
              help="NAME[:option=value] with commas (evocomp list strategies).")  # fmt: skip
@click.option("--grouper", default="vocabulary", show_default=True, help="NAME[:option=value].")
@keep_option("Tokens to keep")
@click.option("--evaluations", type=Count(1), default=408, show_default=True, help="For each search.")
@click.option("--seeds", type=Count(1), default=3, show_default=True, help="Searches by each strategy.")
@out_option("search.png")
@model_options
def searches(
    image: str, question: str, answer: str | None, strategies: str, grouper: str, keep: Keep | None,
    evaluations: int, seeds: int, out: Path, model: str, device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """The best loss so far of several strategies over evaluations, on one sample.

    IMAGE is a file, or micro:SEED for a made scene.

    \b
    Example:
      evocomp draw search micro:3 "what color is the star ?" --strategies evolution,hill-climb --seeds 2
    """
    picture, question = open_image(image), asked(question)
    from bench.report.figures import traces
    from compress.labels.single import search_sample
    from evosearch import STRATEGIES, pick

    named = specs(strategies)
    for spec in named:
        pick(STRATEGIES, spec, "strategy")  # a wrong name is an error before the work
    mllm = load_model(model, device, dtype, anyres)
    picture = open_image(image, mllm.image_side)  # it was opened before only to be sure that it can be
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
    """Loss and validation score of trained COMPRESSORS (folders of evocomp train) over epochs.

    \b
    Example:
      evocomp draw training compressor another-compressor --out training.pdf
    """
    from bench.report.figures import training as figure
    from bench.report.inspection import curves

    written(figure({folder.name: curves(folder) for folder in compressors}), out)


COMMANDS = {"draw": draw}
