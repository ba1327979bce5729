"""The command line as tests call it: every helper takes the words of a command."""

from __future__ import annotations

import json
import re
from typing import Any

from click.testing import CliRunner, Result

from bench.cli import main

PROGRESS = r": \d+ of \d+ |^features"  # lines on stderr besides messages


def run(*args: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(one) for one in args], **options)


def done(*args: object) -> Result:
    """A command that must succeed."""
    result = run(*args)
    assert result.exit_code == 0, result.stderr or result.exception
    return result


def printed(*args: object) -> str:
    """What a command that must succeed prints on stdout."""
    return done(*args).stdout


def parsed(*args: object) -> Any:
    """What a command prints with --json."""
    return json.loads(printed(*args, "--json"))


def refused(*args: object, status: int = 2) -> str:
    """The message of a command that must be refused: one line on stderr, nothing on stdout."""
    result = run(*args)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    lines = [line for line in result.stderr.splitlines() if not re.search(PROGRESS, line)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("evocomp: ") and "Traceback" not in lines[0]
    return lines[0]
