"""Published architectures with random weights, for measuring time: latency does not depend on weights.

The weights are created on the device in the requested precision, so a model never takes more memory than its
parameters need. Answers are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    BatchFeature,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from compress.models.loading import adapt
from compress.models.mllm import MLLM
from compress.seeding import drawing
from evosearch.registry import unknown

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _clip() -> CLIPVisionConfig:
    """CLIP ViT-L/14 at 336 pixels."""
    return CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip


def _vicuna(hidden: int, intermediate: int, depth: int) -> LlamaConfig:
    heads = hidden // 128
    return LlamaConfig(
        vocab_size=32064, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=depth,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=4096,
    )  # fmt: skip


def _llava_7b() -> LlavaConfig:
    return LlavaConfig(vision_config=_clip(), text_config=_vicuna(4096, 11008, 32))


def _llava_13b() -> LlavaConfig:
    return LlavaConfig(vision_config=_clip(), text_config=_vicuna(5120, 13824, 40))


def _llava_next_7b() -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=_clip(), text_config=_vicuna(4096, 11008, 32), image_grid_pinpoints=PINPOINTS
    )


def _qwen_7b() -> Qwen2_5_VLConfig:
    text = {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


def _qwen3_text(hidden: int, intermediate: int, depth: int, heads: int, kv: int = 8) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    return {
        "vocab_size": 151936, "hidden_size": hidden, "intermediate_size": intermediate, "head_dim": 128,
        "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": kv,
        "rope_parameters": rope,
    }  # fmt: skip


def _qwen3_vision(out: int, small: bool = False) -> dict[str, Any]:
    sizes = (24, 1024, 4096, [5, 11, 17]) if small else (27, 1152, 4304, [8, 16, 24])
    named = zip(("depth", "hidden_size", "intermediate_size", "deepstack_visual_indexes"), sizes, strict=True)
    return {**dict(named), "num_heads": 16, "patch_size": 16, "out_hidden_size": out}


def _qwen3_2b() -> Qwen3VLConfig:
    text = _qwen3_text(2048, 6144, 28, 16)
    return Qwen3VLConfig(text_config=text, vision_config=_qwen3_vision(2048, True), tie_word_embeddings=True)


def _qwen3_4b() -> Qwen3VLConfig:
    text = _qwen3_text(2560, 9728, 36, 32)
    return Qwen3VLConfig(text_config=text, vision_config=_qwen3_vision(2560, True), tie_word_embeddings=True)


def _qwen3_8b() -> Qwen3VLConfig:
    return Qwen3VLConfig(text_config=_qwen3_text(4096, 12288, 36, 32), vision_config=_qwen3_vision(4096))


def _qwen3_30b() -> Qwen3VLMoeConfig:
    experts = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
    text = {**_qwen3_text(2048, 6144, 48, 32, 4), **experts}
    return Qwen3VLMoeConfig(text_config=text, vision_config=_qwen3_vision(2048))


def _qwen2_7b(words: int) -> dict[str, Any]:
    """The 7B decoder of Qwen2 and Qwen2.5."""
    return {
        "model_type": "qwen2", "vocab_size": words, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip


def _internvl3_8b() -> InternVLConfig:
    vision = {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True,
    }  # fmt: skip
    return InternVLConfig(
        text_config=_qwen2_7b(151674), vision_config=vision, image_token_id=151667, tie_word_embeddings=False
    )


def _onevision_7b() -> LlavaOnevisionConfig:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
        "num_hidden_layers": 26, "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
        "vision_use_head": False,
    }  # fmt: skip
    pinpoints = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    return LlavaOnevisionConfig(
        text_config=_qwen2_7b(152064), vision_config=vision, image_grid_pinpoints=pinpoints
    )


SHAPES: dict[str, tuple[type[PreTrainedModel], Callable[[], PreTrainedConfig]]] = {
    "llava-1.5-7b": (LlavaForConditionalGeneration, _llava_7b),
    "llava-1.5-13b": (LlavaForConditionalGeneration, _llava_13b),
    "llava-next-7b": (LlavaNextForConditionalGeneration, _llava_next_7b),
    "qwen2.5-vl-7b": (Qwen2_5_VLForConditionalGeneration, _qwen_7b),
    "qwen3-vl-2b": (Qwen3VLForConditionalGeneration, _qwen3_2b),
    "qwen3-vl-4b": (Qwen3VLForConditionalGeneration, _qwen3_4b),
    "qwen3-vl-8b": (Qwen3VLForConditionalGeneration, _qwen3_8b),
    "qwen3-vl-30b-a3b": (Qwen3VLMoeForConditionalGeneration, _qwen3_30b),
    "internvl3-8b": (InternVLForConditionalGeneration, _internvl3_8b),
    "llava-onevision-7b": (LlavaOnevisionForConditionalGeneration, _onevision_7b),
}


def build(
    name: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    depth: int | None = None,
    whole_tower: bool = False,
    seed: int = 0,
) -> MLLM:
    """A model of a published shape with random weights, in evaluation mode, without a processor.

    LLaVA-NeXT has its fixed grid, five tiles and 2880 visual tokens. With `depth` only the first `depth`
    decoder layers are built, and the same share of the tower's unless `whole_tower`; the model's name then
    states the slice. ValueError for a name or depth that does not exist.
    """
    if name not in SHAPES:
        raise ValueError(unknown("shape", name, SHAPES))
    kind, configure = SHAPES[name]
    config = configure()
    told = f"{name} shape, random weights"
    if depth is not None:
        told += f", {_slice(config, depth, whole_tower)}"
    made = _random(kind, config, device, dtype, seed)
    mllm = adapt(made, name=told)
    if config.model_type == "llava_next":
        mllm.fix_grid()
    return mllm


def _slice(config: Any, depth: int, whole_tower: bool) -> str:
    """Cut a configuration to the first layers of the decoder; a description of the slice."""
    text, vision = config.text_config, config.vision_config
    layers = text.num_hidden_layers
    if not 1 <= depth <= layers:
        raise ValueError(f"depth slice {depth}: choose 1 to {layers} decoder layers")
    text.num_hidden_layers = depth
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:depth]
    told = f"slice of {depth} of {layers} decoder layers"
    if whole_tower:
        return told
    named = "depth" if hasattr(vision, "depth") else "num_hidden_layers"
    blocks = getattr(vision, named)
    kept = max(2, -(-blocks * depth // layers))  # LLaVA reads the second-last block
    setattr(vision, named, kept)
    return f"{told} and {kept} of {blocks} tower layers"


def _random(
    kind: type[PreTrainedModel], config: PreTrainedConfig, device: str, dtype: torch.dtype, seed: int
) -> PreTrainedModel:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with drawing(seed, device), torch.device(device):
            model: Any = kind(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def random_inputs(mllm: MLLM, text: int, batch: int = 1, seed: int = 0, frames: int = 0) -> BatchFeature:
    """Inputs for `model.generate(**inputs)`: noise for an image, `text` random tokens around it.

    One image in each of `batch` prompts, with as many visual tokens as the model has, or a video of `frames`
    frames; a fifth of the text precedes it. ValueError for less than 2 tokens of text, and for a video if the
    family reads none.
    """
    if text < 2:
        raise ValueError(f"{text} text tokens: choose 2 or more")
    config, device = mllm.model.config, mllm.model.device
    draw = torch.Generator(device=device).manual_seed(seed)
    special = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    known = [number for number in range(mllm.decoder.config.vocab_size) if number not in special]
    picks = torch.randint(len(known), (text,), generator=draw, device=device)
    words = torch.tensor(known, device=device)[picks]
    if frames:
        mllm.check_videos()
    shown = mllm.video_ids(frames) if frames else [config.image_token_id] * mllm.visual_tokens
    before = max(1, text // 5)
    ids = torch.cat([words[:before], torch.tensor(shown, device=device), words[before:]])
    ids = ids.expand(batch, -1).contiguous()
    noise = mllm.video_noise(ids, frames, draw) if frames else mllm.noise(ids, draw)
    return BatchFeature({"input_ids": ids, "attention_mask": torch.ones_like(ids), **noise})
