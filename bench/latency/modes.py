"""Modes of running a model: as in the evaluation, and faster ones for compression before the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch

from compress.models.loading import MLLM
from compress.models.static import compile_decoder, compiled, greedy, static_cache

MODES = {
    "eager": "generate with a growing cache, as everything is evaluated",
    "static": "greedy decoding with a cache of a fixed length",
    "compiled": "the same with the decoder through torch.compile",
    "graphs": "the same with its CUDA graphs recorded",
}
Stamp = Callable[[], None]  # called whenever a token has reached the host


class Stamps:
    """A streamer for `generate`: it receives the prompt first, then each token."""

    def __init__(self, stamp: Stamp):
        self.stamp, self.prompt = stamp, True

    def put(self, _: torch.Tensor) -> None:
        if not self.prompt:
            self.stamp()
        self.prompt = False

    def end(self) -> None:
        pass


class Eager:
    """`generate` with a fixed number of new tokens."""

    def __init__(self, mllm: MLLM, steps: int):
        self.mllm, self.steps = mllm, steps

    def answer(self, inputs: Mapping[str, Any], stamp: Stamp) -> None:
        self.mllm.model.generate(
            **inputs, do_sample=False, num_beams=1, pad_token_id=0, max_new_tokens=self.steps,
            min_new_tokens=self.steps, streamer=Stamps(stamp),
        )  # fmt: skip

    def reset(self) -> None:
        """Prepare for a request."""

    def release(self) -> None:
        """Free memory that only a request needs, so that it does not count towards other requests."""


class Static(Eager):
    """Greedy decoding with a cache of fixed length; compiled for this shape in the modes that compile.

    Every request has a new cache, except for recorded graphs: they keep theirs, since they refer to it by its
    address.
    """

    def __init__(self, mllm: MLLM, steps: int, batch: int, length: int, mode: str):
        super().__init__(mllm, steps)
        self.batch, self.length, self.recorded = batch, length, mode == "graphs"
        self.forward = None if mode == "static" else compile_decoder(mllm, graphs=self.recorded)
        self.cache: Any = None  # a StaticCache during a request

    def answer(self, inputs: Mapping[str, Any], stamp: Stamp) -> None:
        with compiled(self.mllm, self.forward) if self.forward else nullcontext():
            for token in greedy(self.mllm, inputs, self.cache, self.steps):
                token.cpu()
                stamp()

    def reset(self) -> None:
        if self.cache is None:
            self.cache = static_cache(self.mllm, self.batch, self.length + self.steps)
        self.cache.reset()

    def release(self) -> None:
        if not self.recorded:
            self.cache = None
