"""The decoder as a graph of fixed shapes: a Llama with the cache as input and new cache rows as output."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench.edge.int4 import Int4Linear
from bench.edge.precision import Precision, empty_cache
from bench.evaluation.ledger import DecoderShape


class FixedDecoder(nn.Module):
    """S new rows that see C cache rows and each other; without scatter, so that any NPU compiler accepts it.

    forward(embeds [1, S, H], positions [1, S], mask [S, S], past_mask [1, C], *cache) returns the logits [1,
    V] of the last row and the new cache rows. The cache consists of float keys and values [L, kv, C, d]; with
    `precision.cache` 8, of keys, key scales, values and value scales, int8 and [L, kv, C, 1]. New rows are
    attended to in their stored precision, so the boundaries of chunks do not matter. Masks are added to the
    scores.

    Covers Llama's layer as it is: no biases, plain rotary positions, SiLU.
    """

    def __init__(self, decoder: Any, head: nn.Linear, precision: Precision, layers: int | None = None):
        """Build it from a transformers Llama without head, and its head; only the first `layers` if given."""
        super().__init__()
        _check(decoder.config)
        if precision.cache not in (8, 32):
            raise ValueError(f"{precision.label}: this decoder's cache is int8 (KV8) or float (KV32)")
        self.shape, self.precision = DecoderShape.of(decoder.config), precision
        self.theta: float = decoder.config.rope_parameters["rope_theta"]
        self.epsilon: float = decoder.config.rms_norm_eps
        kept = list(decoder.layers)[:layers]
        self.layers = nn.ModuleList(_Layer(one, self.shape, self.epsilon, precision) for one in kept)
        self.norm = nn.Parameter(decoder.norm.weight.detach().float(), requires_grad=False)
        self.head = _linear(head, precision)

    def empty_cache(self, context: int) -> dict[str, NDArray[Any]]:
        """An empty cache in the form kept by the host."""
        shape = self.shape
        return empty_cache(self.precision, len(self.layers), shape.kv_heads, context, shape.head_dim)

    def forward(
        self, embeds: Tensor, positions: Tensor, mask: Tensor, past_mask: Tensor, *cache: Tensor
    ) -> tuple[Tensor, ...]:
        frequency = self.theta ** (-torch.arange(0, self.shape.head_dim, 2) / self.shape.head_dim)
        angles = (positions[..., None].float() * frequency)[:, None]  # [1, 1, S, d / 2]
        rotary = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        seen = torch.cat([past_mask.expand(mask.shape[0], -1), mask], -1)  # [S, C + S]
        x, new = embeds, []
        for number, layer in enumerate(self.layers):
            x, rows = layer(x, rotary, seen, [part[number : number + 1] for part in cache])
            new.append(rows)
        last = rms(x[:, -1], self.norm, self.epsilon)
        return self.head(last), *(torch.cat(part) for part in zip(*new, strict=True))


class _Layer(nn.Module):
    def __init__(self, layer: Any, shape: DecoderShape, epsilon: float, precision: Precision):
        super().__init__()
        self.shape, self.epsilon, self.int8 = shape, epsilon, precision.cache == 8
        attention, mlp = layer.self_attn, layer.mlp
        self.before = nn.Parameter(layer.input_layernorm.weight.detach().float(), requires_grad=False)
        self.between = nn.Parameter(
            layer.post_attention_layernorm.weight.detach().float(), requires_grad=False
        )
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = (
            _linear(one, precision)
            for one in (
                attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
                mlp.gate_proj, mlp.up_proj, mlp.down_proj,
            )
        )  # fmt: skip

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], seen: Tensor, cache: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        shape, h = self.shape, rms(x, self.before, self.epsilon)
        q, k, v = (
            one(h).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2) for one in (self.q, self.k, self.v)
        )
        k = rotate(k, *rotary)
        new = [*int8(k), *int8(v)] if self.int8 else [k, v]
        rows = [torch.cat(pair, 2) for pair in zip(cache, new, strict=True)]
        keys, values = (rows[0].float() * rows[1], rows[2].float() * rows[3]) if self.int8 else rows
        groups = shape.heads // shape.kv_heads
        q = rotate(q, *rotary).unflatten(1, (shape.kv_heads, groups))  # [1, kv, groups, S, d]
        scores = q @ keys[:, :, None].transpose(-1, -2) * shape.head_dim**-0.5 + seen
        mixed = (scores.softmax(-1) @ values[:, :, None]).flatten(1, 2).transpose(1, 2).flatten(2)
        x = x + self.o(mixed)
        h = rms(x, self.between, self.epsilon)
        return x + self.down(F.silu(self.gate(h)) * self.up(h)), new


def int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of each vector [..., d], with its scale [..., 1]."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return (x / scale).round().to(torch.int8), scale


def rms(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, with the halves of a head paired."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _linear(linear: Any, precision: Precision) -> nn.Module:
    weight = linear.weight.detach()
    if precision.weights == 4:
        return Int4Linear(weight, precision.activations)
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.float(), requires_grad=False)
    return made


def _check(config: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    plain = rope.get("rope_type", "default") == "default" and "mrope_section" not in rope
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    if config.model_type != "llama" or not plain or biased or config.hidden_act != "silu":
        raise ValueError(
            f"the fixed-shape decoder covers plain Llama decoders (no biases, no scaled or M-RoPE "
            f"positions), not this {config.model_type}: choose a LLaVA-1.5 with a Llama or Vicuna decoder"
        )
