"""How long work tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[int, int], object]  # done, in all
Bar = Callable[[str, str], AbstractContextManager[Progress]]  # title, unit
