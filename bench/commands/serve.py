"""`evocomp bench serve`: measure an OpenAI-compatible server under load, with and without compression."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import open_folder, open_tasks
from bench.commands.options import (
    SEED,
    Amount,
    as_json,
    data_options,
    keeps_option,
    options_of,
    refuse_idle,
)
from bench.console import OutFolder, option, progress, say, show_json

if TYPE_CHECKING:
    from bench.serving.run import Load
    from compress.keep import Keep

QUESTIONS = 20  # of a task
# Per option: the reason why other options have no effect with it, and their parameter names.
IDLE = {
    "folder": ("whose images are all asked one question", ("tasks", "data", "protocol", "split")),
    "url": ("where a server runs already", ("program", "further")),
}


class Numbers(click.ParamType):
    """Positive numbers separated by commas, without duplicates; an empty list for an empty text."""

    name = "text"

    def __init__(self, kind: type[int] | type[float]):
        self.kind = kind

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            found = [self.kind(part) for part in value.split(",") if part.strip()]
        except ValueError:
            found = [0]
        if not all(0 < each < 10**6 for each in found):
            self.fail(f"'{value}': write positive numbers with commas, for instance 1,8.", param, ctx)
        return tuple(dict.fromkeys(found))


@click.command()
@option(
    "--methods", "wanted", default="evocomp+,visionzip,divprune",
    help="Methods, separated by commas: NAME or NAME:option=value,... (evocomp list methods --engine).",
)  # fmt: skip
@keeps_option("1/3,2/9,1/9")
@options_of(
    "bench.serving.run:Load", "load",
    {
        "users": "Numbers of concurrent users, separated by commas; a user asks again after each answer.",
        "rates": "Requests per second with Poisson arrivals, separated by commas.",
        "requests": "Number of requests per row of the table and round.",
        "rounds": "Number of rounds; each one measures every row once, in random order.",
        "new": "Number of tokens of an answer.",
        "minutes": "Minutes after which no further row is measured.",
        "seed": "Seed of orders, arrivals and marks in images.",
    },
    types={"users": Numbers(int), "rates": Numbers(float), "minutes": Amount(0, 10**5), "seed": SEED},
    defaults={"users": "1,8", "rates": "none"},
)  # fmt: skip
@option(
    "--model", default="busy", help="Shipped model, folder or hub name to serve; with --url: its name there."
)
@option("--url", help="Address of a running server that ends in /v1, instead of one that is started here.")
@option(
    "--vllm", "program",
    help="The program vllm of an environment that has evocomp. Default: the one in PATH.",
)  # fmt: skip
@option(
    "--serve", "further", multiple=True, metavar="OPTION",
    help="Option for `vllm serve`, for instance --serve --dtype=float32; may be given several times.",
)  # fmt: skip
@partial(data_options, each=str(QUESTIONS))
@option(
    "--images", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of images, in place of --tasks: the first ones by name, as many as -n says.",
)  # fmt: skip
@option("--question", default="describe the image", help="Question about each image of --images.")
@option(
    "--out", type=OutFolder(),
    help="Folder for results.json, serving.csv, serving.md, serving.html and a picture.",
)  # fmt: skip
@as_json
@click.pass_obj
def serve(
    command: str, wanted: str, keeps: list[Keep], load: Load, model: str, url: str | None,
    program: str | None, further: tuple[str, ...], tasks: str, count: int | None, data: str | None,
    protocol: str | None, split: str | None, folder: Path | None, question: str, out: Path | None,
    machine: bool,
) -> None:  # fmt: skip
    """Measure requests per second and waiting times of a server, per method, budget and load.

    The command starts a vLLM server with our plug-in, and stops it at the end. The plug-in takes method and
    budget per request, so every round measures all rows of the table on one server. With --url, it measures
    any OpenAI-compatible server; if that has no plug-in of ours, choose --methods none.

    \b
    Example:
      evocomp bench serve --methods evocomp+,visionzip --keep 192,64 --users 1,8 --out served
    """
    refuse_idle(click.get_current_context(), IDLE)
    from bench.serving.measure import measure
    from bench.serving.report import results, table, write

    if folder is None:
        found = open_tasks(tasks, count or QUESTIONS, data, protocol, split, model=model, labelled=False)
        samples = [sample for each in found.values() for sample in each]
    else:
        samples = open_folder(folder, question, count or QUESTIONS)
    with progress("measure", "rounds") as report:
        served = measure(
            wanted, keeps, load, model, samples, url=url, program=program, options=further, command=command,
            progress=report,
        )  # fmt: skip
    if out:
        write(served, out)
    if machine:
        show_json(results(served))
        return
    click.echo(table(served).text(), nl=False)
    if out:
        say(f"results.json, serving.csv, serving.md, serving.html and a picture are in {out}")


COMMANDS = {"serve": serve}
