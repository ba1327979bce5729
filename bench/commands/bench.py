"""`evocomp bench`: timings, and the dependence of the kept tokens on the question."""

from __future__ import annotations

import click

from bench.cli import Commands

TIMINGS = {
    "latency": ("latency", "Time every stage of an answer under every method, on a GPU or CPU."),
    "serve": ("serve", "Measure a server under load, with and without compression."),
    "question": ("question", "Measure how far the kept tokens depend on the question."),
    "edge": ("edge", "Time the phone protocol on runtimes with fixed shapes (paper, Table 4)."),
}


@click.group(cls=Commands, groups={"Commands": TIMINGS})
def bench() -> None:
    """Time methods, and measure how far their choice depends on the question.

    \b
    Example:
      evocomp bench latency --methods fastv,visionzip,evocomp --keep 48,16 --out latency
    """


COMMANDS = {"bench": bench}
