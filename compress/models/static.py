"""Greedy decoding with caches of a fixed length, with or without compilation of the decoder.

For compression before the decoder: inside `attach`, a method that acts there gives every layer one length,
known in advance, so that caches are allocated once and the decoder can be compiled or captured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from compress.models.caches import CACHE
from compress.models.mllm import MLLM


def static_cache(mllm: MLLM, batch: int, length: int) -> StaticCache:
    """A cache for `length` tokens of each sample; `reset()` prepares it for the next prompt."""
    config, weight = mllm.decoder.config, mllm.decoder.embed_tokens.weight
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = StaticCache(config=config, max_cache_len=length)
    cache.early_initialization(batch, config.num_key_value_heads, width, weight.dtype, weight.device)
    return cache


@torch.no_grad()
def greedy(mllm: MLLM, inputs: Mapping[str, Any], cache: StaticCache, steps: int) -> Iterator[Tensor]:
    """Yield up to `steps` tokens [B, 1], one after the other, as `generate` without sampling chooses them.

    The cache must be empty and long enough for the remaining tokens of the prompt and the new tokens; answers
    do not end early.
    """
    given = {**inputs, "use_cache": True, CACHE: cache, "logits_to_keep": 1}
    for _ in range(steps):
        token = mllm.model(**given).logits[:, -1].argmax(-1, keepdim=True)
        yield token
        given = {"input_ids": token, "use_cache": True, CACHE: cache, "logits_to_keep": 1}


@contextmanager
def compiled(mllm: MLLM, forward: Any) -> Iterator[None]:
    """Let the decoder run `forward`, the result of `compile_decoder`; hooks stay outside.

    For use inside `attach`, under a method that acts before the decoder, whose layers then have no hooks.
    """
    decoder = mllm.decoder
    decoder.forward = forward
    try:
        with torch.compiler.set_stance("default"), torch._dynamo.config.patch(recompile_limit=64):
            yield
    finally:
        del decoder.forward


def compile_decoder(mllm: MLLM, graphs: bool = False) -> Any:
    """The decoder's forward through torch.compile, for fixed shapes; `graphs` also records CUDA graphs."""
    return torch.compile(
        type(mllm.decoder).forward.__get__(mllm.decoder),
        dynamic=False,
        mode="reduce-overhead" if graphs else "default",
    )
