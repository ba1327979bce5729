"""What is drawn from a seed leaves no trace in torch's global generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.evaluation.compressors import random_compressor
from compress.models.loading import load
from compress.models.shapes import build
from compress.seeding import drawing
from compress.training.config import TrainConfig
from compress.training.run import _start


def first(seed: int) -> torch.Tensor:
    with drawing(seed):
        return torch.rand(3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: first(0),
        lambda: random_compressor(load("micro")),
        lambda: _start(load("micro").decoder, TrainConfig(init="random")),
        lambda: build("llava-1.5-7b", depth=1, device="meta"),
    ],
    ids=["block", "random compressor", "untrained compressor", "published shape"],
)
def test_the_global_generator_stays_as_it_was(draw: Callable[[], object]) -> None:
    before = torch.random.get_rng_state()
    draw()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_seed_decides_the_draw() -> None:
    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
    mllm = load("micro")
    heads = [random_compressor(mllm, seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
