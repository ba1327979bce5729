"""Attention on demand: the few rows and keys a method reads, recomputed from a layer's own projections.

Fast kernels return no weights, and asking for them slows the whole model down. Here a layer's *input* is all
that is needed; nothing is computed unless a method asks. Results equal eager attention to rounding. Layers
are typed `Any`: CLIP and Llama attribute names are all that is assumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def heads(projected: Tensor, width: int) -> Tensor:
    """Split [L, H * width] into [H, L, width]."""
    return projected.unflatten(-1, (-1, width)).transpose(0, 1)


def tower_keys(layer: Any, hidden: Tensor) -> Tensor:
    """Keys [1 + N, H, d] of a tower layer with input [1 + N, C] (CLS first), bias included, unscaled."""
    attention = layer.self_attn
    return attention.k_proj(layer.layer_norm1(hidden)).unflatten(-1, (attention.num_heads, -1))


def cls_scores(layer: Any, hidden: Tensor) -> Tensor:
    """Scaled scores of CLS for itself and the patches [H, 1 + N] in a tower layer with input [1 + N, C].

    Their softmax, in float32, is the attention of CLS.
    """
    attention = layer.self_attn
    width = attention.head_dim
    normed = layer.layer_norm1(hidden)
    query = heads(attention.q_proj(normed[:1]), width)  # [H, 1, d]
    keys = heads(attention.k_proj(normed), width)  # [H, 1 + N, d]
    return (query @ keys.transpose(1, 2) * attention.scale)[:, 0]


def window(decoder: Any, number: int) -> int | None:
    """How many tokens, itself among them, a token sees in a decoder layer; None if it sees all before it."""
    own = getattr(decoder.config, "sliding_window", None)  # where layers say nothing of it
    found: int | None = getattr(decoder.layers[number].self_attn, "sliding_window", own)
    return found


def decoder_rows(
    layer: Any,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    rows: Sequence[int] | Tensor,
    unseen: Tensor | None = None,
) -> Tensor:
    """Causal attention [H, R, L] of the chosen rows of one unpadded sequence in a decoder layer.

    hidden [L, D] is the layer's input, cos and sin [L, d] its rotary table, rows [R] count from 0; `unseen`
    [R, L] is what lies outside the layer's window. Softmax in float32.
    """
    attention = layer.self_attn
    where = torch.as_tensor(rows, device=hidden.device)
    query = attention.q_proj(layer.input_layernorm(hidden[where]))
    query = rotated(attention, query, cos[where], sin[where])  # [H, R, d]
    key = decoder_keys(layer, hidden, cos, sin)
    key = key.repeat_interleave(len(query) // len(key), dim=0)  # grouped queries share keys
    hides = torch.arange(len(hidden), device=hidden.device) > where[:, None]  # [R, L]
    if unseen is not None:
        hides = hides | unseen
    scores = (query @ key.transpose(1, 2) * attention.scaling).masked_fill(hides, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32)


def decoder_keys(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys [H_kv, L, d] of one sequence in a decoder layer, after the rotation; arguments as above."""
    return rotated(layer.self_attn, layer.self_attn.k_proj(layer.input_layernorm(hidden)), cos, sin)


def rotated(attention: Any, projected: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Projections [L, H * d] as heads [H, L, d], turned by the model's own rotary convention."""
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    states = heads(projected, attention.head_dim)[None]
    turned: Tensor = rotate(states, states, cos[None], sin[None])[0]
    return turned[0]
