"""Seeds torch's global random generator for a block and restores its state afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside the block, torch draws from `seed`; afterwards the global state is restored."""
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield
