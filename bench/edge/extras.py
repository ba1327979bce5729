"""Optional libraries, asked for where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say which extra to install when an import in the block fails."""
    try:
        yield
    except ImportError as problem:
        raise ValueError(
            f"{problem.name or problem} is not installed: pip install 'evocomp[{extra}]'"
        ) from problem
