"""Against Cooperx521/PyramidDrop, one stage, with the attention that a live model's views compute."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.pyramiddrop import PyramidDrop
from bench.fidelity.cases import Case
from compress.attach.attention import decoder_rows
from compress.base import View


class Attention(SimpleNamespace):
    """What `decoder_rows` needs of a decoder layer's attention; it rotates as this module says."""


def apply_rotary_pos_emb(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def rotate(states: Tensor) -> Tensor:
        first, second = states.chunk(2, dim=-1)
        return states * cos + torch.cat([-second, first], dim=-1) * sin

    return rotate(query), rotate(key)


def check(case: Case) -> dict[str, Tensor]:
    hidden = case["hidden_states"][0]
    start, now = case.value("image_start"), case.value("num_image_tokens_now")
    layer, cos, sin = decoder(case)
    attention = decoder_rows(layer, hidden, cos, sin, [case.value("prompt_text_len") + now - 1])
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


def decoder(case: Case) -> tuple[SimpleNamespace, Tensor, Tensor]:
    """A decoder layer with the recorded weights, and its rotary table at the recorded positions."""
    width = len(case["q_weight"]) // case.value("num_heads")
    frequency = case.value("rope_base") ** (-torch.arange(0, width, 2) / width)
    angle = case["position_ids"][0][:, None] * frequency.repeat(2)
    weight = case["rmsnorm_weight"]
    attention = Attention(
        q_proj=partial(F.linear, weight=case["q_weight"]),
        k_proj=partial(F.linear, weight=case["k_weight"]),
        head_dim=width,
        scaling=width**-0.5,
    )
    norm = partial(F.rms_norm, normalized_shape=weight.shape, weight=weight, eps=case.value("rmsnorm_eps"))
    return SimpleNamespace(self_attn=attention, input_layernorm=norm), angle.cos(), angle.sin()
