"""The Qwen3-VL twin: `micro-qwen3`, whose decoder is grown from `micro-qwen`'s.

Its tower is new and learns to reproduce the micro model's visual tokens, split into three shares: half of
their dimensions at the decoder's input, the rest after its first two layers (DeepStack). After training, the
decoder no longer needs the latter.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from compress.micro.language import QWEN_TOKENS, tokenizer
from compress.micro.recipe.decoder import Lesson, TrainingModel, pack, run
from compress.micro.recipe.tower import PATCHES
from compress.micro.recipe.twins import grow, qwen_frame, qwen_pixels, shares
from compress.micro.world import GRID, PATCH

HEAD = 32  # dimensions of a head: serving engines have no kernels for 24
WIDTH = 128
LEVELS = (1, 2)  # tower blocks after which DeepStack takes features


def new_qwen3(source: Any) -> Qwen3VLForConditionalGeneration:
    """Build a Qwen3-VL with a new tower and the decoder of `source`, a Qwen2.5-VL with heads of width 24.

    Rotary frequencies keep their values and their axes: time, height and width in turn. The base grows with
    the head width, and the lowest frequencies are new. `match_lengths` scales the norms of queries and keys
    to their mean lengths in `source`. The biases of `source` are dropped.
    """
    text, vocabulary = source.config.text_config, tokenizer(QWEN_TOKENS).get_vocab()
    old = text.hidden_size // text.num_attention_heads
    torch.manual_seed(7)
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config={
                "vocab_size": len(vocabulary), "hidden_size": WIDTH,
                "intermediate_size": text.intermediate_size, "num_hidden_layers": text.num_hidden_layers,
                "num_attention_heads": text.num_attention_heads,
                "num_key_value_heads": text.num_key_value_heads, "head_dim": HEAD,
                "max_position_embeddings": text.max_position_embeddings, "rms_norm_eps": text.rms_norm_eps,
                "initializer_range": text.initializer_range,
                "rope_parameters": {
                    "rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5],
                    "rope_theta": text.rope_parameters["rope_theta"] ** (HEAD / old),
                },
                "pad_token_id": text.pad_token_id, "bos_token_id": text.bos_token_id,
                "eos_token_id": text.eos_token_id, "tie_word_embeddings": False,
            },
            vision_config={
                "depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2,
                "patch_size": PATCH // 2, "spatial_merge_size": 2, "temporal_patch_size": 2,
                "num_position_embeddings": GRID**2, "deepstack_visual_indexes": list(LEVELS),
                "out_hidden_size": WIDTH, "initializer_range": 0.08,
            },
            image_token_id=vocabulary["<|image_pad|>"], video_token_id=vocabulary["<|video_pad|>"],
            vision_start_token_id=vocabulary["<|vision_start|>"],
            vision_end_token_id=vocabulary["<|vision_end|>"],
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    grow(model.model.language_model, with_wider_heads(source.model.language_model))
    grow(model.lm_head, source.lm_head)
    return model


@torch.no_grad()
def with_wider_heads(decoder: Any) -> Any:
    """Copy a Qwen2.5-VL's decoder with heads of `HEAD` dimensions, no biases, and the same attention.

    Dimension i of a head forms a rotary pair with i + d / 2 in either width. In the new dimensions queries
    are zero; keys and values are random, since with zeros the gradients would stay zero.
    """
    config, wider = decoder.config, copy.deepcopy(decoder)
    heads, width = config.num_attention_heads, config.hidden_size
    half = width // heads // 2
    one = torch.cat([torch.arange(half), HEAD // 2 + torch.arange(half)])
    where = (torch.arange(heads)[:, None] * HEAD + one).flatten()
    for layer in wider.layers:
        part = layer.self_attn
        for reads in (part.q_proj, part.k_proj, part.v_proj):
            rows = torch.randn(heads * HEAD, width) * config.initializer_range
            rows[where] = reads.weight
            reads.weight, reads.bias = nn.Parameter(rows), None
        new = torch.ones(heads * HEAD, dtype=torch.bool)
        new[where] = False
        part.q_proj.weight[new] = 0
        columns = torch.zeros(width, heads * HEAD)
        columns[:, where] = part.o_proj.weight
        part.o_proj.weight = nn.Parameter(columns)
    return wider


@torch.no_grad()
def match_lengths(model: Any, source: TrainingModel, visual: Tensor, taught: list[Lesson]) -> None:
    """Scale the norms of queries and keys to their mean lengths in `source`, layer by layer.

    A norm gives all heads and tokens the same length, so only the mean can be preserved. `visual` are the
    micro model's visual tokens of the scenes in `taught`.
    """
    inner = source.decoder.layers[0].self_attn.head_dim
    length: dict[nn.Module, float] = {}
    hooks = []
    for layer in source.decoder.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):

            def note(part: nn.Module, _: object, out: Tensor) -> None:
                length[part] = float(out.unflatten(-1, (-1, inner)).norm(dim=-1).mean())

            hooks.append(part.register_forward_hook(note))
    run(source, shares(visual, source.decoder.config.hidden_size, 0), pack(taught))
    for hook in hooks:
        hook.remove()
    for large, small in zip(model.model.language_model.layers, source.decoder.layers, strict=True):
        old, new = small.self_attn, large.self_attn
        new.q_norm.weight.fill_(length[old.q_proj] / math.sqrt(inner))  # attention divides by sqrt(HEAD)
        new.k_norm.weight.fill_(length[old.k_proj] / math.sqrt(HEAD))


def qwen3(model: Qwen3VLForConditionalGeneration) -> TrainingModel:
    """Set up training of all parts of a Qwen3-VL; its features are square images, uint8 [B, 96, 96, 3]."""
    tower = model.model.visual
    trained = {"tower": tower, "decoder": model.model.language_model, "head": model.lm_head}

    def project(pixels: Tensor) -> Tensor:
        grid = torch.tensor([[1, 2 * GRID, 2 * GRID]]).expand(len(pixels), -1)
        out = tower(qwen_pixels(pixels), grid_thw=grid)
        every = torch.cat([out.pooler_output, *out.deepstack_features], -1)
        return every.view(len(pixels), PATCHES, -1)

    return TrainingModel(model, qwen_frame(), torch.arange(PATCHES), project, nn.ModuleDict(trained))


def taught_by(teacher: TrainingModel, pupil: TrainingModel) -> TrainingModel:
    """Set up training of `pupil`'s decoder alone, on the visual tokens of `teacher`."""
    width, levels = pupil.decoder.config.hidden_size, len(LEVELS)

    def project(features: Tensor) -> Tensor:
        with torch.no_grad():
            return shares(teacher.project(features), width, levels)

    parts = nn.ModuleDict({name: pupil.trained[name] for name in ("decoder", "head")})
    return replace(pupil, project=project, trained=parts)
