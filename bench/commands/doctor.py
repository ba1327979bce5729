"""`evocomp doctor`: checks of the installation or a folder of benchmarks."""

from __future__ import annotations

from dataclasses import asdict

import click

from bench.commands.options import as_json
from bench.console import option, say, show_json, show_table


@click.command()
@option("--data", help="Folder of benchmarks to check as well (docs/benchmarks.md).")
@option("--images", is_flag=True, help="Open every image of --data instead of only checking that it exists.")
@as_json
@click.pass_context
def doctor(ctx: click.Context, data: str | None, images: bool, machine: bool) -> None:
    """Check versions, device, extras, shipped weights and data; exit status 2 if there is a problem.

    \b
    Example:
      evocomp doctor --data benchmarks --images
    """
    from bench.doctor import benchmarks, installation

    if images and data is None:
        raise ValueError("--images needs --data: give the folder of benchmarks")
    findings = [*installation(), *(benchmarks(data, images=images) if data else ())]
    problems = sum(one.state == "problem" for one in findings)
    if machine:
        show_json([asdict(one) for one in findings])
    else:
        show_table(["what", "state", "detail"], [[one.subject, one.state, one.detail] for one in findings])
    say(f"{problems} problem{'s' * (problems != 1)} in {len(findings)} findings")
    ctx.exit(2 if problems else 0)


COMMANDS = {"doctor": doctor}
