"""Types of progress callbacks for long-running work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

Progress = Callable[[int, int], object]  # done, total
Bar = Callable[[str, str], AbstractContextManager[Progress]]  # title, unit
