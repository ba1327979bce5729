"""Optional libraries, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(module: str, extra: str) -> Any:
    """Import a module; ValueError that names the extra to install if it is missing."""
    try:
        return import_module(module)
    except ImportError as problem:
        name = problem.name or module
        raise ValueError(f"{name} is not installed: pip install 'evocomp[{extra}]'") from problem
