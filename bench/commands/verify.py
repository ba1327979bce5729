"""`evocomp verify`: compares our selection and merging with the official implementations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bench.commands.options import as_json
from bench.console import option, say, show_json, show_table


@click.command()
@option(
    "--golden",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of recorded cases, one .npz file per method. Default: those of the package.",
)
@as_json
@click.pass_context
def verify(ctx: click.Context, golden: Path | None, machine: bool) -> None:
    """Run every method's selection on recorded inputs of its official code; exit status 1 on a difference.

    Indices must be equal, floats within 1e-4, attention and densities within 1e-5.

    \b
    Example:
      evocomp verify
    """
    from bench.fidelity import CHECKS, GOLDEN
    from bench.fidelity import verify as run

    verdicts = list(run(golden or GOLDEN, CHECKS))
    wrong = sum(verdict.difference is not None for verdict in verdicts)
    if machine:
        show_json([asdict(verdict) for verdict in verdicts])
    else:
        rows = [
            [one.subject, str(one.number), str(one.compared), one.difference or "equal"] for one in verdicts
        ]
        show_table(["method", "case", "arrays", "first difference"], rows)
    say(f"{len(verdicts) - wrong} of {len(verdicts)} cases agree with the official implementations")
    ctx.exit(1 if wrong else 0)


COMMANDS = {"verify": verify}
