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


def cls_attention(layer: Any, hidden: Tensor) -> Tensor:
    """Attention of CLS to the patches [H, N] in a tower layer with input [1 + N, C].

    Softmax over CLS and patches in float32; the CLS column is then left out, without renormalisation.
    """
    attention = layer.self_attn
    width = attention.head_dim
    normed = layer.layer_norm1(hidden)
    query = heads(attention.q_proj(normed[:1]), width)  # [H, 1, d]
    keys = heads(attention.k_proj(normed), width)  # [H, 1 + N, d]
    weights = (query @ keys.transpose(1, 2) * attention.scale).softmax(-1, dtype=torch.float32)
    return weights[:, 0, 1:]


def decoder_rows(
    layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, rows: Sequence[int] | Tensor
) -> Tensor:
    """Causal attention [H, R, L] of the chosen rows of one unpadded sequence in a decoder layer.

    hidden [L, D] is the layer's input, cos and sin [L, d] its rotary table, rows [R] count from 0. Softmax in
    float32.
    """
    attention = layer.self_attn
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb  # the model's own rotary convention
    where = torch.as_tensor(rows, device=hidden.device)
    normed = layer.input_layernorm(hidden)
    query = heads(attention.q_proj(normed[where]), attention.head_dim)[None]  # [1, H, R, d]
    key = heads(attention.k_proj(normed), attention.head_dim)[None]  # [1, H_kv, L, d]
    query, _ = rotate(query, query, cos[where][None], sin[where][None])
    key, _ = rotate(key, key, cos[None], sin[None])
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # grouped queries share keys
    future = torch.arange(len(hidden), device=hidden.device) > where[:, None]  # [R, L]
    scores = (query @ key.transpose(2, 3) * attention.scaling).masked_fill(future, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32)[0]
