"""`evocomp bench`: what compression is worth in time."""

from __future__ import annotations

import click

from bench.cli import Commands

TIMINGS = {
    "latency": ("latency", "Every stage of an answer, all methods in turns, on a GPU or CPU."),
}


@click.group(cls=Commands, table=TIMINGS)
def bench() -> None:
    """Time compression on this machine, or on another one.

    \b
    Example:
      evocomp bench latency --methods visionzip,evocomp --keep 48,16
    """


COMMANDS = {"bench": bench}
