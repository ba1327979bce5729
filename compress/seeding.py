"""Weights that torch draws from its global generator, drawn from a seed without a trace in that generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawing(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside the block torch draws from `seed`; after it, the global state is what it was before."""
    place = torch.device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(seed)
        yield
