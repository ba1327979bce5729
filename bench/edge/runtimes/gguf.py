"""The quantised decoder as a GGUF file for llama.cpp, with identical int4 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.edge.bundle import GGUF
from bench.edge.decoder import FixedDecoder
from bench.edge.extras import optional
from bench.edge.int4 import Int4Linear, quantise
from bench.edge.precision import Floats
from bench.edge.protocol import Protocol

ARCHITECTURE = "llama"


def export_decoder(decoder: FixedDecoder, protocol: Protocol, embeddings: Floats, folder: Path) -> None:
    """Write `GGUF`, which fits every shape.

    It contains the table of embeddings because llama.cpp requires one; rows come from the host.
    """
    library = optional("gguf", "llamacpp")
    shape, part = decoder.shape, folder / f"{GGUF}.part"
    writer = library.GGUFWriter(part, ARCHITECTURE)
    q4_0 = library.GGMLQuantizationType.Q4_0
    writer.add_context_length(1 << 16)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(len(decoder.layers))
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(decoder.theta)
    writer.add_layer_norm_rms_eps(decoder.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")

    def put(name: str, linear: nn.Module, heads: int = 0) -> None:
        if isinstance(linear, Int4Linear):
            levels, scales = linear.levels, linear.scales.view(linear.outputs, -1)
            writer.add_tensor(name, blocks(paired(levels, heads), paired(scales, heads)), raw_dtype=q4_0)
        else:
            weight: Tensor = linear.weight  # type: ignore[assignment]
            writer.add_tensor(name, paired(weight, heads).numpy())

    for number, layer in enumerate(decoder.layers):
        block: Any = layer
        named = {
            "attn_q": (block.q, shape.heads), "attn_k": (block.k, shape.kv_heads), "attn_v": (block.v, 0),
            "attn_output": (block.o, 0), "ffn_gate": (block.gate, 0), "ffn_up": (block.up, 0),
            "ffn_down": (block.down, 0),
        }  # fmt: skip
        for name, (linear, heads) in named.items():
            put(f"blk.{number}.{name}.weight", linear, heads)
        writer.add_tensor(f"blk.{number}.attn_norm.weight", block.before.numpy())
        writer.add_tensor(f"blk.{number}.ffn_norm.weight", block.between.numpy())
    writer.add_tensor("output_norm.weight", decoder.norm.numpy())
    put("output.weight", decoder.head)
    table = blocks(*quantise(torch.from_numpy(embeddings)))
    writer.add_tensor("token_embd.weight", table, raw_dtype=q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(folder / GGUF)


def paired(rows: Tensor, heads: int) -> Tensor:
    """Rows [N, ...] of q or k in llama.cpp's order: it rotates adjacent pairs, Llama rotates halves."""
    if not heads:
        return rows
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(rows.shape)


def blocks(levels: Tensor, scales: Tensor) -> NDArray[np.uint8]:
    """Q4_0 bytes [N, 18 * K / 32]: a half-precision scale, then bytes j with levels j and j + 16."""
    low, high = levels.chunk(2, -1)
    packed = (low | high << 4).numpy()  # [N, K / 32, 16]
    halves = scales.numpy().astype(np.float16)[..., None].view(np.uint8)
    joined = np.concatenate([halves, packed], -1)
    return joined.reshape(len(joined), -1)
