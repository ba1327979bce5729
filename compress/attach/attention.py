"""Attention on demand: computes only the rows and keys a method reads, with the model's own modules.

Fast kernels return no weights, and asking for them slows the whole model down. This module needs only the
*input* of a layer, and computes nothing unless a method asks. It runs the layer's own code up to its
attention kernel and captures the queries and keys there. Norms of heads, rotary tables of any kind, and caps
on scores are therefore the model's own. Results equal eager attention up to rounding. The code assumes no
names of a family's submodules.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

Tables = Any  # the rotary tables of a sequence: a tensor [1, L, ...], or a nested tuple of such

QUERIES = 256


@dataclass(frozen=True)
class Heads:
    """The inputs of a layer's attention for one sequence: rotated queries and keys, and values, by head."""

    query: Tensor  # [H, L, d]
    key: Tensor  # [H_kv, L, d]
    value: Tensor  # [H_kv, L, d]
    scaling: float
    cap: float | None  # soft cap of scaled scores by tanh

    def scores(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Scaled scores [H, R, L] of the chosen rows, before the mask and softmax."""
        key = self.key.repeat_interleave(len(self.query) // len(self.key), dim=0)  # groups share keys
        found = self.query[:, rows] @ key.transpose(1, 2) * self.scaling
        return found if self.cap is None else torch.tanh(found / self.cap) * self.cap


class _TappedError(Exception):
    """Carries the arguments of an attention kernel out of a layer's forward."""


def _tap(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> NoReturn:
    raise _TappedError(query, key, value, options)


TAP = "evocomp_tap"
AttentionInterface.register(TAP, _tap)


def tapped(layer: Any, hidden: Tensor, **given: Any) -> Heads:
    """Queries, keys and values of one sequence in a tower or decoder layer, as passed to its kernel.

    `hidden` is [1, L, D], or [L, D] for a layer that gets the images of a batch in one row. `given` are
    further arguments of the layer, such as position_embeddings [1, L, ...]. The layer itself is not modified:
    shallow copies of it and its attention, which share all weights, run instead. ValueError for a layer whose
    attention does not go through transformers' kernels.
    """
    probe = _probe(layer)
    known = inspect.signature(probe.forward).parameters
    if not any(each.kind == each.VAR_KEYWORD for each in known.values()):
        given = {name: value for name, value in given.items() if name in known}
    try:
        probe.forward(hidden, **given)
    except _TappedError as found:
        query, key, value, options = found.args
        return Heads(query[0], key[0], value[0], options["scaling"], options.get("softcap"))
    raise ValueError(f"the attention of {type(layer).__name__} cannot be read: it calls no known kernel")


def _probe(layer: Any) -> Any:
    """A copy of a layer whose attention stops before its kernel."""
    for name, child in layer.named_children():
        if hasattr(getattr(child, "config", None), "_attn_implementation") and hasattr(child, "is_causal"):
            attention = _bare(child)
            attention.config = copy(child.config)
            attention.config._attn_implementation_internal = TAP
            probe = _bare(layer)
            probe._modules = {**layer._modules, name: attention}
            return probe
    raise ValueError(f"{type(layer).__name__} has no attention of its own: choose another layer")


def _bare(module: nn.Module) -> Any:
    """A shallow copy of a module without pre-hooks, and without an attribute that overrides `forward`."""
    found: Any = copy(module)
    vars(found).pop("forward", None)
    found._forward_pre_hooks = OrderedDict()
    return found


def tower_keys(layer: Any, hidden: Tensor) -> Tensor:
    """Keys [1 + N, H, d] of a tower layer with input [1 + N, C] (CLS first), bias included, unscaled."""
    return tapped(layer, hidden[None], attention_mask=None).key.transpose(0, 1)


def cls_scores(layer: Any, hidden: Tensor) -> Tensor:
    """Scaled scores [H, 1 + N] of CLS for itself and the patches in a tower layer with input [1 + N, C].

    Their softmax, in float32, is the attention of CLS.
    """
    return tapped(layer, hidden[None], attention_mask=None).scores(slice(1))[:, 0]


def patch_heads(block: Any, hidden: Tensor, rotary: Sequence[Tensor]) -> Heads:
    """Queries and keys of one image or tile [M, C] in a tower block; `rotary` are its tables [M, d], if any.

    Towers with such tables get the images of a batch in one row.
    """
    if not rotary:
        return tapped(block, hidden[None], attention_mask=None)
    ends = torch.tensor([0, len(hidden)], dtype=torch.int32, device=hidden.device)
    return tapped(block, hidden, cu_seqlens=ends, position_embeddings=tuple(rotary))


def received(block: Any, hidden: Tensor, rotary: Sequence[Tensor]) -> Tensor:
    """Mean attention [H, M] that each of M rows of a tower block receives from all rows, float32.

    It is computed in blocks of queries, because all queries at once would exhaust the memory.
    """
    heads = patch_heads(block, hidden, rotary)
    total = torch.zeros(len(heads.query), len(hidden), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), QUERIES):
        total += heads.scores(slice(start, start + QUERIES)).softmax(-1, dtype=torch.float32).sum(1)
    return total / len(hidden)


def patch_keys(block: Any, hidden: Tensor, rotary: Sequence[Tensor]) -> Tensor:
    """Keys [H, d, M] of the rows of a tower block, before any rotation."""
    return patch_heads(block, hidden, still(tuple(rotary))).key.transpose(1, 2)


def patch_queries(block: Any, hidden: Tensor, rotary: Sequence[Tensor]) -> Tensor:
    """Queries [H, d, M] of the rows of a tower block, before any rotation."""
    return patch_heads(block, hidden, still(tuple(rotary))).query.transpose(1, 2)


def still(tables: Tables) -> Tables:
    """Rotary tables of the same form that rotate nothing: cosines of 1, sines of 0."""
    return tuple(torch.full_like(table, float(number == 0)) for number, table in enumerate(tables))


def window(decoder: Any, number: int) -> int | None:
    """Number of tokens that a token sees in a decoder layer, itself included; None if there is no limit."""
    own = getattr(decoder.config, "sliding_window", None)  # default for layers that do not define it
    attention = getattr(decoder.layers[number], "self_attn", None)  # a recurrent layer has no attention
    found: int | None = getattr(attention, "sliding_window", own) if attention is not None else None
    return found


def decoder_rows(
    layer: Any, hidden: Tensor, tables: Tables, rows: Sequence[int] | Tensor, seen: Tensor | None = None,
    size: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention [H, R, L] of the chosen rows of one unpadded sequence in a decoder layer.

    `hidden` [L, D] is the layer's input, `tables` its rotary tables. `rows` [R] count from 0. `seen` [R, L]
    bool is the rows that each one attends to; default: all rows up to its own. `size` [L] is the number of
    tokens that each row represents. Softmax in float32.
    """
    where = torch.as_tensor(rows, device=hidden.device)
    if seen is None:
        seen = torch.arange(len(hidden), device=hidden.device) <= where[:, None]
    scores = decoder_heads(layer, hidden, tables).scores(where)
    if size is not None:
        scores = scores + size.log()
    return scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32)


def decoder_heads(layer: Any, hidden: Tensor, tables: Tables) -> Heads:
    """Queries, keys and values of one sequence in a decoder layer; arguments as in `decoder_rows`."""
    return tapped(layer, hidden[None], position_embeddings=tables, attention_mask=None)
