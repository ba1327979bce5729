"""`evocomp bench`: what compression is worth in time."""

from __future__ import annotations

import click

from bench.cli import Commands

TIMINGS = {
    "latency": ("latency", "Every stage of an answer, all methods in turns, on a GPU or CPU."),
    "edge": ("edge", "The phone protocol on runtimes of fixed shapes (paper, Table 4)."),
}


@click.group(cls=Commands, table=TIMINGS)
def bench() -> None:
    """Time compression on this machine, or on another one.

    \b
    Example:
      evocomp bench latency --methods visionzip,evocomp --keep 48,16
      evocomp bench edge --threads 1 --paper
    """


COMMANDS = {"bench": bench}
