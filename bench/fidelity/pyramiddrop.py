"""Comparison with Cooperx521/PyramidDrop, one stage, with attention computed as in a live model's views."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from baselines.pyramiddrop import PyramidDrop
from bench.fidelity.cases import Case
from compress.attach.attention import decoder_rows
from compress.base import View


def check(case: Case) -> dict[str, Tensor]:
    hidden = case["hidden_states"][0]
    start, now = case.value("image_start"), case.value("num_image_tokens_now")
    layer, tables = decoder(case)
    attention = decoder_rows(layer, hidden, tables, [case.value("prompt_text_len") + now - 1])
    visual = attention[..., start : start + now]  # [H, 1, N]
    share = case["ratio_list_with_leading_one"][case.value("stage") + 1].item()
    keep = int(case.value("num_image_tokens_original") * share)
    view = View(
        depth=8,
        hidden=hidden[start : start + now],
        visual=hidden.new_empty(0),
        text=hidden.new_empty(0),
        index=torch.arange(now),
        grid=(1, now),
        attention=lambda layer, rows: visual,
    )
    kept = PyramidDrop().select(view, keep).index
    place = torch.cat([torch.arange(start), start + kept, torch.arange(start + now, len(hidden))])
    return {
        "attention_last_query": attention[:, 0],
        "image_scores": PyramidDrop.rank(visual),
        "kept_image_indices": kept,
        "output_hidden_states": hidden[None, place],
        "output_position_ids": torch.arange(len(place))[None],
    }


def decoder(case: Case) -> tuple[LlamaDecoderLayer, tuple[Tensor, Tensor]]:
    """A decoder layer with the recorded weights, and its rotary table at the recorded positions."""
    heads, weight = case.value("num_heads"), case["rmsnorm_weight"]
    width = len(case["q_weight"]) // heads
    frequency = case.value("rope_base") ** (-torch.arange(0, width, 2) / width)
    angle = case["position_ids"][0][:, None] * frequency.repeat(2)
    config = LlamaConfig(
        hidden_size=len(weight), num_attention_heads=heads, head_dim=width, intermediate_size=1,
        rms_norm_eps=case.value("rmsnorm_eps"),
    )  # fmt: skip
    layer = LlamaDecoderLayer(config, 0)
    recorded = {
        "self_attn.q_proj": "q_weight",
        "self_attn.k_proj": "k_weight",
        "input_layernorm": "rmsnorm_weight",
    }
    layer.load_state_dict({f"{name}.weight": case[key] for name, key in recorded.items()}, strict=False)
    return layer.requires_grad_(False), (angle.cos()[None], angle.sin()[None])
