"""`evocomp bench`: timings."""

from __future__ import annotations

import click

from bench.cli import Commands

TIMINGS = {
    "latency": ("latency", "Time every stage of an answer under every method, on a GPU or CPU."),
    "edge": ("edge", "Time the phone protocol on runtimes with fixed shapes (paper, Table 4)."),
}


@click.group(cls=Commands, groups={"Commands": TIMINGS})
def bench() -> None:
    """Time methods on this machine or on another device.

    \b
    Example:
      evocomp bench latency --methods fastv,visionzip,evocomp --keep 48,16 --out latency
    """


COMMANDS = {"bench": bench}
