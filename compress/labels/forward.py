"""The decoder's forward pass over candidates that have rows in common.

Attention is causal, so a row depends on itself and earlier rows. If candidates start with the same rows,
these are equal in every layer and are computed once: the candidates are paths in a tree. Layers are typed
`Any`. `outputs` is fast and assumes the attributes and conventions of `LAYERS`; `outputs_of_any` runs the
tree through the decoder itself, whatever its layers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from compress.attach.attention import window
from compress.models.caches import cache_in
from compress.models.loading import MLLM

LAYERS = (
    "LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen2VLDecoderLayer",
    "Qwen2_5_VLDecoderLayer", "Qwen3DecoderLayer", "Qwen3VLTextDecoderLayer",
)  # fmt: skip
ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None if torch was built without it
BLOCK = 64  # row counts are multiples of it: oneDNN caches a kernel per count, and few rows use others
SHORT = 256  # rows up to which plain matrix products are faster on a CPU than fused attention

Ints = NDArray[np.integer[Any]]


class Past(NamedTuple):
    """Keys and values [P * H_kv, d], in one layer, of rows that precede all candidates."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Paths:
    """B candidates of L positions each as paths over M rows, which refer to U tokens."""

    tokens: Tensor  # [U] indices into all embeddings
    token: Tensor  # [M] index into `tokens` of each row
    positions: Tensor  # [A, M], one row per axis of rotary positions
    rows: Tensor  # [B, L] the row at each position of a candidate
    first: Tensor  # [M] first occurrence of each row in 0 .. B * L - 1

    @staticmethod
    def parting(tokens: Ints, positions: Ints) -> Paths:
        """Paths of candidates with tokens [B, L] at positions [A, B, L]; common prefixes share rows.

        Tokens with the same preceding tokens must have the same position. M is a multiple of BLOCK.
        """
        order = np.lexsort(tokens.T[::-1])
        sorted_ = tokens[order]
        new = np.ones(tokens.shape, bool)
        new[1:] = np.logical_or.accumulate(sorted_[1:] != sorted_[:-1], 1)
        number = np.cumsum(new).reshape(new.shape) - 1
        rows = np.empty_like(number)
        rows[order] = np.maximum.accumulate(np.where(new, number, 0), 0)
        candidate, place = np.nonzero(new)
        first = order[candidate] * tokens.shape[1] + place
        nowhere = np.zeros(-len(first) % BLOCK, first.dtype)  # padding rows that are never attended to
        first = np.concatenate([first, nowhere])
        different, token = np.unique(tokens.ravel()[first], return_inverse=True)
        flat = positions.reshape(len(positions), -1)[:, first]
        return Paths(*map(torch.from_numpy, (different, token, flat, rows, first)))

    def to(self, device: torch.device) -> Paths:
        return Paths(*(getattr(self, each.name).to(device) for each in fields(self)))

    @staticmethod
    def apart(tokens: Tensor, positions: Tensor) -> Paths:
        """Paths without common rows, so that the work depends on B and L alone."""
        every = torch.arange(tokens.numel(), device=tokens.device)
        return Paths(tokens.flatten(), every, positions.flatten(1), every.view(tokens.shape), every)


def check(mllm: MLLM, rows: int) -> None:
    """ValueError unless every decoder layer attends to all `rows` earlier tokens, and only to those."""
    if mllm.special_masks:
        raise ValueError(
            f"losses of candidates need attention to earlier tokens only; the image tokens of {mllm.name} "
            f"also attend to later ones"
        )
    for number in range(mllm.layers):
        if mllm.recurrent(number):
            raise ValueError(
                f"losses of candidates need attention in all layers; this model's layer {number} is recurrent"
            )
        sees = window(mllm.decoder, number)
        if sees is not None and sees < rows:
            raise ValueError(
                f"losses of candidates are computed with attention to all tokens before; this model looks "
                f"back over {sees}, and a sample has {rows}"
            )


def fast(decoder: Any) -> bool:
    """Whether `outputs` supports the decoder's layers."""
    return all(type(layer).__name__ in LAYERS for layer in decoder.layers)


@torch.inference_mode()
def past(decoder: Any, embeds: Tensor) -> list[Past]:
    """Keys and values in each layer of rows [P, D] that start a sequence; P may be 0."""
    width = decoder.layers[0].self_attn.head_dim
    if not len(embeds):
        return [Past(*embeds.new_zeros(2, 0, width))] * len(decoder.layers)
    cache = cache_in(decoder(inputs_embeds=embeds[None], use_cache=True))
    return [Past(*(each[0].transpose(0, 1).reshape(-1, width) for each in (layer.keys, layer.values)))
            for layer in cache.layers]  # fmt: skip


@torch.inference_mode()
def outputs(
    decoder: Any,
    embeds: Tensor,
    paths: Paths,
    asked: Tensor,
    before: Sequence[Past],
    added: Tensor | None = None,
) -> Tensor:
    """The decoder's output [B, R, D] at the positions `asked` [B, R] of each candidate.

    `embeds` [*, D] are the embeddings that the tokens of `paths` index. `added` [n, *, D] is added to them
    after the first n layers, fewer than all. `before` holds the keys and values that precede all paths.
    """
    tokens = embeds[paths.tokens]
    hidden = tokens[paths.token]  # [M, D]
    queries_turn, keys_turn = _turns(decoder, hidden, paths.positions)
    device, kv = hidden.device, decoder.config.num_key_value_heads
    (count, length), start = paths.rows.shape, len(before[0].keys) // kv
    seen = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)
    keys = torch.cat([torch.arange(start, device=device).expand(count, -1), start + paths.rows], 1)
    attend = _CandidateAttention(decoder, paths.rows, keys, seen, paths.first)
    wanted = paths.rows.gather(1, asked).flatten()  # [B * R] rows, the only outputs of the last layer
    every = torch.arange(len(wanted), device=device).view(asked.shape)
    last = len(decoder.layers) - 1
    for number, (layer, earlier) in enumerate(zip(decoder.layers, before, strict=True)):
        attention, mlp = layer.self_attn, layer.mlp
        # In the first layer, all rows of a token have the same projections.
        alike = number == 0 < last and len(tokens) < len(hidden)
        normed = _normed(layer.input_layernorm, tokens if alike else hidden)
        key, value = product(attention.k_proj, normed), product(attention.v_proj, normed)
        if number == last:
            hidden, normed, queries_turn = hidden[wanted], normed[wanted], queries_turn[:, wanted]
            attend = _CandidateAttention(decoder, every, keys, seen[asked], every.flatten())
        query = product(attention.q_proj, normed)
        if alike:
            query, key, value = (each[paths.token] for each in (query, key, value))
        if hasattr(attention, "q_norm"):
            query = _normed_heads(attention.q_norm, query, attention.head_dim)
            key = _normed_heads(attention.k_norm, key, attention.head_dim)
        found = attend(_turned(query, queries_turn), _turned(key, keys_turn), value, earlier)
        hidden = product(attention.o_proj, found, plus=hidden)
        normed = _normed(layer.post_attention_layernorm, hidden)
        gate, up = mlp.act_fn(product(mlp.gate_proj, normed)), product(mlp.up_proj, normed)
        hidden = product(mlp.down_proj, gate.mul_(up), plus=hidden)
        if added is not None and number < len(added):
            hidden = hidden + added[number][paths.tokens][paths.token]
    return _normed(decoder.norm, hidden).view(*asked.shape, -1)


@torch.inference_mode()
def outputs_of_any(
    mllm: MLLM, embeds: Tensor, paths: Paths, asked: Tensor, before: Tensor, added: Tensor | None = None
) -> Tensor:
    """The result of `outputs`, computed by the decoder itself: the tree as one sequence with a mask.

    `before` [P, D] are the embeddings of the text that precedes all paths, at positions 0 to P - 1. It is
    slower than `outputs`, and the last bits of a row may depend on the other rows of the batch.
    """
    start, length = len(before), paths.rows.shape[1]
    rows = torch.cat([before, embeds[paths.tokens][paths.token]])[None]  # [1, T, D]
    total = rows.shape[1]
    seen = torch.eye(total, dtype=torch.bool, device=rows.device)
    seen[:, :start] = torch.ones(total, start, dtype=torch.bool, device=rows.device).tril()
    later, earlier = torch.tril_indices(length, length, device=rows.device)
    seen[start + paths.rows[:, later], start + paths.rows[:, earlier]] = True
    first = torch.arange(start, device=rows.device).expand(len(paths.positions), -1)
    ids = torch.cat([first, paths.positions], 1)
    given = {}
    if added is not None and mllm.residuals is not None:
        spread = [torch.cat([torch.zeros_like(before), each[paths.tokens][paths.token]]) for each in added]
        given = dict(zip(mllm.residuals, (torch.ones_like(seen[:1]), spread), strict=True))
    hidden = mllm.decoder(
        inputs_embeds=rows, attention_mask=mllm.attention_mask(rows, seen[None]), use_cache=False,
        position_ids=ids if len(ids) == 1 else ids[:, None], **given,
    ).last_hidden_state[0]  # fmt: skip
    return hidden[start + paths.rows.gather(1, asked)]


class _CandidateAttention:
    """Attention of candidates with queries and keys gathered by row, equal in every layer.

    `queries` [B, Q] and `keys` [B, T] map positions to rows, `seen` [Q, T] or [B, Q, T] is the mask, and
    `kept` [K] selects among the B * Q results.
    """

    def __init__(self, decoder: Any, queries: Tensor, keys: Tensor, seen: Tensor, kept: Tensor):
        heads, kv = decoder.config.num_attention_heads, decoder.config.num_key_value_heads
        (count, asking), groups = queries.shape, heads // kv  # queries of a group share keys
        plain = queries.device.type == "cpu" and keys.shape[1] <= SHORT
        head = torch.arange(heads, device=queries.device)
        holder = head[:kv] if plain else head // groups  # fused kernels with a mask do not support groups
        self._scale: float = decoder.layers[0].self_attn.scaling
        self._queried, self._stored = (count, heads, asking, -1), (count, len(holder), keys.shape[1], -1)
        self._queries = (queries[:, None] * heads + head[:, None]).flatten()  # rows of [M * H, d]
        self._keys = (keys[:, None] * kv + holder[:, None]).flatten()  # rows of [(P + M) * H_kv, d]
        whose, where = kept // asking, kept % asking
        self._kept = ((whose[:, None] * heads + head) * asking + where[:, None]).flatten()  # [B * H * Q, d]
        self._seen = seen if seen.ndim == 2 else seen[:, None]
        self._bias: Tensor | None = None
        if plain:
            bias = torch.zeros(seen.shape, dtype=decoder.dtype).masked_fill(~seen, -torch.inf)
            if seen.ndim == 2:
                self._bias = bias.repeat(groups, 1)[None]
            else:
                spread = bias[:, None, None].expand(-1, kv, groups, -1, -1)
                self._bias = spread.reshape(count * kv, groups * asking, -1)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
        """Results [K, H * d] for queries [M, H, d], keys and values [M, H_kv * d]."""
        width = query.shape[-1]
        queries = query.view(-1, width).index_select(0, self._queries)
        keys = torch.cat([past.keys, key.view(-1, width)]).index_select(0, self._keys)
        values = torch.cat([past.values, value.view(-1, width)]).index_select(0, self._keys)
        if self._bias is None:
            found = F.scaled_dot_product_attention(
                queries.view(self._queried), keys.view(self._stored), values.view(self._stored),
                attn_mask=self._seen, scale=self._scale,
            )  # fmt: skip
        else:
            batches, rows = self._stored[0] * self._stored[1], self._stored[2]
            scores = torch.baddbmm(
                self._bias, queries.view(batches, -1, width), keys.view(batches, rows, width).transpose(1, 2),
                alpha=self._scale,
            )  # fmt: skip
            weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
            found = torch.bmm(weights, values.view(batches, rows, width))
        return found.reshape(-1, width).index_select(0, self._kept).view(-1, self._queried[1] * width)


def product(linear: Any, rows: Tensor, plus: Tensor | None = None) -> Tensor:
    """A linear layer's output for rows [M, D], plus `plus`; on a CPU bit-identical in any batch.

    On a CPU in single precision it uses oneDNN's kernel, which torch includes but does not choose: MKL's
    kernel leaves half of an AMD processor unused (docs/performance.md).
    """
    cpu = rows.device.type == "cpu"
    if cpu and (missing := -len(rows) % BLOCK):
        more = (0, 0, 0, missing)
        return product(linear, F.pad(rows, more), None if plus is None else F.pad(plus, more))[:-missing]
    # Quantised layers, or their weights, have other classes.
    plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    if ONEDNN is None or not cpu or rows.dtype != torch.float32 or not plain:
        found: Tensor = linear(rows)
        return found if plus is None else found.add_(plus)
    if plus is None:
        return ONEDNN(rows, linear.weight, linear.bias, "none", [], "")
    return ONEDNN.binary(rows, plus, linear.weight, linear.bias, "add")


def _normed(norm: Any, rows: Tensor) -> Tensor:
    """RMSNorm of rows [M, D]."""
    size = torch.linalg.vector_norm(rows.float(), dim=-1, keepdim=True)
    scale = size.square_().div_(rows.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (rows * scale).to(rows.dtype).mul_(norm.weight)


def _normed_heads(norm: Any, projected: Tensor, width: int) -> Tensor:
    """RMSNorm of each head of projections [M, H * d]."""
    return _normed(norm, projected.view(-1, width)).view(projected.shape)


def _turns(decoder: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The rotary tables [2, M, H or 1, d] of queries and keys: cosines, and sines signed for `_turned`.

    On a CPU they are expanded over the heads, because broadcasting is three times slower there.
    """
    ids = positions if len(positions) == 1 else positions[:, None]  # [1, M], or [3, 1, M]
    cos, sin = (each[0] for each in decoder.rotary_emb(hidden, position_ids=ids))  # [M, d]
    first, second = sin.chunk(2, -1)
    table = torch.stack([cos, torch.cat([-first, second], -1)])[:, :, None]
    if hidden.device.type != "cpu":
        return table, table
    config = decoder.config
    queries = table.repeat(1, 1, config.num_attention_heads, 1)
    if config.num_key_value_heads == config.num_attention_heads:
        return queries, queries
    return queries, table.repeat(1, 1, config.num_key_value_heads, 1)


def _turned(states: Tensor, table: Tensor) -> Tensor:
    """Queries or keys [M, H * d], rotated, as [M, H, d]; pairs are half the width apart."""
    cos, sin = table
    states = states.view(len(states), -1, cos.shape[-1])
    return (states * cos).addcmul_(states.roll(cos.shape[-1] // 2, -1), sin)
