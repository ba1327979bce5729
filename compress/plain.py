"""Settings in Python's own types: neither JSON nor a checkpoint of torch holds numpy's numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np


def to_plain(settings: Any) -> None:
    """Replace numpy's numbers in the fields of a dataclass, which may be frozen, by Python's."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(settings, field.name, value.item())
