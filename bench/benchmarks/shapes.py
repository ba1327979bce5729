"""Decoders of real shapes with random weights, on any device, for what needs sizes and no sense.

The tower is a small stand-in, and nothing here says anything about it: samples are made as embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from compress.models import MLLM, Embedded, adapt

SYSTEM, QUESTION, RESPONSE = 35, 20, 12  # rows of text: a chat's first words, a question, an answer


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, and the visual tokens of one image as published."""

    visual: int
    keep: int
    decoder: dict[str, Any]
    qwen: bool = False


LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32064,
}  # fmt: skip
QWEN_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256,
}  # fmt: skip
SHAPES = {
    "llava-1.5-7b": Shape(576, 64, LLAMA_7B),
    "llava-next-7b": Shape(2880, 320, LLAMA_7B),
    "qwen2.5-vl-7b": Shape(1280, 142, QWEN_7B, qwen=True),
    "tiny": Shape(64, 8, TINY),  # to see that all of this runs
    "tiny-qwen": Shape(
        64, 8, TINY | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}, qwen=True
    ),
}  # fmt: skip


def build(name: str, device: str, dtype: torch.dtype) -> MLLM:
    """A model of that shape; its weights are drawn on the device itself."""
    shape = SHAPES[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            model = _qwen(shape) if shape.qwen else _llava(shape)
    finally:
        torch.set_default_dtype(default)
    return adapt(model.eval(), name=name)


def embedded(mllm: MLLM, shape: Shape, number: int) -> Embedded:
    """One made sample: random words around random visual tokens, questions of differing length."""
    weights = mllm.decoder.embed_tokens.weight
    draw = torch.Generator().manual_seed(number)
    question = QUESTION - 8 + number * 5 % 17
    prompt = SYSTEM + shape.visual + question
    ids = torch.randint(weights.shape[0], (prompt + RESPONSE,), generator=draw)
    ids[:SYSTEM] = torch.arange(SYSTEM)  # all begin alike
    rows = weights.detach()[ids.to(weights.device)].clone()
    seen = torch.randn(shape.visual, weights.shape[1], generator=draw) * float(weights.detach().float().std())
    rows[SYSTEM : SYSTEM + shape.visual] = seen.to(rows)
    side = int(shape.visual**0.5)
    positions = torch.arange(len(ids))
    return Embedded(
        embeds=rows,
        visual=torch.arange(SYSTEM, SYSTEM + shape.visual, device=rows.device),
        prompt=prompt,
        response=ids[-RESPONSE:].to(rows.device),
        grid=(side, shape.visual // side),
        positions=(positions.expand(3, -1) if mllm.mrope else positions).to(rows.device),
    )


def _llava(shape: Shape) -> Any:
    side = math.isqrt(shape.visual - 1) + 1
    vision = {
        "image_size": 14 * side, "patch_size": 14, "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    text = LlamaConfig(**shape.decoder, max_position_embeddings=4096)
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **vision}, text_config=text,
            image_token_index=shape.decoder["vocab_size"] - 1, image_seq_length=shape.visual,
        )
    )  # fmt: skip


def _qwen(shape: Shape) -> Any:
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
        "out_hidden_size": shape.decoder["hidden_size"],
    }  # fmt: skip
    last = shape.decoder["vocab_size"] - 1
    text = shape.decoder | {"bos_token_id": last - 4, "eos_token_id": last - 5}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, image_token_id=last, video_token_id=last - 1,
            vision_start_token_id=last - 2, vision_end_token_id=last - 3,
        )
    )  # fmt: skip
