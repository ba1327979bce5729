"""Options that name a file of training questions, and the samples they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.console import say
from evosearch.registry import specs

if TYPE_CHECKING:
    from bench.data.instructions import Index, Instructions, Turns
    from compress.labels import LabelStore
    from compress.samples import Sample

F = TypeVar("F", bound=Callable[..., Any])


def file_options(command: F) -> F:
    """--data, --images: what `samples_of` takes."""
    for option in (
        click.option(
            "--images", type=click.Path(path_type=Path), help="Folder that image names of --data start from."
        ),
        click.option(
            "--data", type=click.Path(path_type=Path),
            help="File of the form of LLaVA's mix665k; the micro mixture without it.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def choice_options(command: F) -> F:
    """--manifest, --sources, --rules and --turns: what else `open_instructions` takes."""
    for option in (
        click.option(
            "--turns", type=click.Choice(["first", "random", "all"]), default="first", show_default=True,
            help="Questions of a record that are labelled.",
        ),
        click.option("--rules", type=click.Path(path_type=Path), help="YAML that tells sources apart."),
        click.option("--sources", help="Only records of these, with commas; all by default."),
        click.option(
            "--manifest", type=click.Path(path_type=Path), help="Of --data: what evocomp data check wrote."
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def open_instructions(
    data: Path, images: Path | None, manifest: Path | None = None, sources: str | None = None,
    rules: Path | None = None, turns: Turns = "first", seed: int = 0, n: int | None = None,
) -> Instructions:  # fmt: skip
    """The samples that the options name, their pictures looked for; what is left out goes to stderr."""
    from bench.data.instructions import Index, Instructions, read_rules

    folder = _folder(images)
    if not data.is_file():
        raise ValueError(
            f"there is no file {data}: give one of the form of LLaVA's mix665k (docs/labelling.md)"
        )
    if manifest is not None and rules is not None:
        raise ValueError("the manifest has its sources already: give --rules to evocomp data check")
    if manifest is not None:
        index = Index.load(manifest, data)
    else:
        say(f"reading {data}; evocomp data check makes a manifest, which is read at once")
        index = Index.of(data, read_rules(rules) if rules else None)
    show_left_out(index)
    samples = Instructions(
        index, folder, turns=turns, seed=seed, sources=specs(sources) if sources else None, n=n
    )
    samples.refuse_changed()
    return samples


def samples_of(
    stores: Iterable[LabelStore], keys: Iterable[str], data: Path | None, images: Path | None
) -> list[Sample]:
    """Samples of label stores, of the file `data` or of the micro mixture; ValueError for another file."""
    if data is None:
        if images is not None:
            raise ValueError("--images goes with --data, the file that it belongs to")
        from bench.tasks.mixture import labelled_samples

        return labelled_samples(keys)
    from bench.data.instructions import Index, Instructions

    folder, index = _folder(images), Index.of(data)
    for store in stores:
        if store.settings.get("data_sha256") != index.digest:
            raise ValueError(
                f"the labels in {store.folder} are not of {data} as it is: give the file they are of"
            )
    return Instructions(index, folder, turns="all").of(keys)


def show_left_out(index: Index) -> None:
    """Why records, turns and pictures cannot be used, on stderr."""
    for reason, one in sorted(index.left_out.items(), key=lambda item: -item[1].count):
        say(f"left out: {reason}: {one.count} (first: {one.first})")


def _folder(images: Path | None) -> Path:
    if images is None:
        raise ValueError("--data names pictures: give the folder that their names start from with --images")
    if not images.is_dir():
        raise ValueError(f"there is no folder {images}: give the one that image names start from")
    return images.absolute()
