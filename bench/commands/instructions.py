"""Options for a file of training questions, and the samples that they select."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.console import option, say
from evosearch.registry import specs

if TYPE_CHECKING:
    from bench.data.instructions import Index, Instructions, Turns
    from compress.labels import LabelStore
    from compress.samples import Sample

F = TypeVar("F", bound=Callable[..., Any])


def file_options(command: F) -> F:
    """Add --data and --images, the arguments of `samples_of`."""
    for add in (
        option(
            "--images",
            type=click.Path(path_type=Path),
            help="Folder that the image names of --data are relative to.",
        ),
        option(
            "--data",
            type=click.Path(path_type=Path),
            help="JSON file in the format of LLaVA's mix665k. Default: the micro mixture.",
        ),
    ):
        command = add(command)
    return command


def choice_options(command: F) -> F:
    """Add --manifest, --sources, --rules and --turns, further arguments of `open_instructions`."""
    for add in (
        option(
            "--turns",
            type=click.Choice(["first", "random", "all"]),
            help="Questions to label in each record. Default: first.",
        ),
        option(
            "--rules",
            type=click.Path(path_type=Path),
            help="YAML file with the rules that assign records to sources. Default: the rules for LLaVA's "
            "mixture.",
        ),
        option("--sources", help="Sources to take records from, separated by commas. Default: all."),
        option(
            "--manifest",
            type=click.Path(path_type=Path),
            help="Manifest of --data, written by `evocomp data check`.",
        ),
    ):
        command = add(command)
    return command


def open_instructions(
    data: Path, images: Path | None, manifest: Path | None = None, sources: str | None = None,
    rules: Path | None = None, turns: Turns = "first", seed: int = 0, n: int | None = None,
) -> Instructions:  # fmt: skip
    """The samples that the options select, with their pictures checked; omissions are printed on stderr."""
    from bench.data.instructions import Index, Instructions, read_rules

    folder = _folder(images)
    if not data.is_file():
        raise ValueError(
            f"there is no file {data}: give one in the format of LLaVA's mix665k (docs/labelling.md)"
        )
    if manifest is not None and rules is not None:
        raise ValueError(
            "--manifest already contains the sources: give --rules to evocomp data check instead"
        )
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
    """Samples of label stores, from the file `data` or the micro mixture; ValueError for another file."""
    if data is None:
        if images is not None:
            raise ValueError("--images needs --data: give that file, or leave --images out")
        from bench.tasks.mixture import labelled_samples

        for store in stores:
            if "data_sha256" in store.settings:
                raise ValueError(
                    f"the labels in {store.folder} are of the file {store.settings.get('data')!r}, which "
                    "is not of the micro mixture: give it with --data, and the folder of its images with "
                    "--images"
                )
        return labelled_samples(keys)
    from bench.data.instructions import Index, Instructions

    folder, index = _folder(images), Index.of(data)
    for store in stores:
        if "data_sha256" not in store.settings:
            raise ValueError(f"the labels in {store.folder} are of the micro mixture: leave out --data")
        if store.settings["data_sha256"] != index.digest:
            raise ValueError(
                f"the labels in {store.folder} are of another version of {data}: "
                f"give the file that was labelled"
            )
    return Instructions(index, folder, turns="all").of(keys)


def show_left_out(index: Index) -> None:
    """Print on stderr why records, turns and pictures cannot be used."""
    for reason, one in sorted(index.left_out.items(), key=lambda item: -item[1].count):
        say(f"left out: {reason}: {one.count} (first: {one.first})")


def _folder(images: Path | None) -> Path:
    if images is None:
        raise ValueError("--data needs --images: give the folder that its image names are relative to")
    if not images.is_dir():
        raise ValueError(f"there is no folder {images}: give the folder that image names are relative to")
    return images.absolute()
