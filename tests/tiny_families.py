"""A tiny random model of every family beside those of conftest: a line of `BUILDERS` each.

All are stock classes, built from configurations alone, and react to every token (`sharpen`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import Qwen2VLImageProcessorPil

from compress.models.mistral3 import PixtralProcessor
from compress.models.processors import images_only
from tests.conftest import TEMPLATE, build_tiny_qwen, clip, decoder, sharpen, tokenizer

VISION = {"depth": 4, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}  # fmt: skip


def finish(folder: Path, model: Any, processor: Any, seed: int = 0) -> Path:
    sharpen(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen(folder: Path, kind: str, text: dict[str, Any], vision: dict[str, Any]) -> Path:
    words = tokenizer(QWEN)
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in QWEN.items()}
    config = getattr(transformers, f"{kind}Config")(
        text_config=decoder(words, bos_token_id=None, **text), vision_config={**VISION, **vision}, **ids
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    pixels = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 16**2, "longest_edge": 96**2},
    )
    image = f"{QWEN['vision_start_token']} {QWEN['image_token']} {QWEN['vision_end_token']} "
    named = "Qwen3VL" if kind in ("Qwen3VLMoe", "Qwen3_5") else kind
    made = images_only(getattr(transformers, f"{named}Processor"))
    template = TEMPLATE.replace("<image> ", image).replace("<video> ", image.replace("image", "video"))
    return finish(folder, model, made(pixels, words, chat_template=template))


def qwen2(folder: Path, **text: Any) -> Path:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    vision = {"embed_dim": 48, "hidden_size": 64, "mlp_ratio": 2}
    return qwen(folder, "Qwen2VL", {"rope_parameters": rope, **text}, vision)


def qwen3(folder: Path, kind: str = "Qwen3VL", **text: Any) -> Path:
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2], "mrope_interleaved": True
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }  # fmt: skip
    return qwen(folder, kind, {"rope_parameters": rope, "head_dim": 16, **text}, vision)


def qwen3_moe(folder: Path) -> Path:
    return qwen3(
        folder, "Qwen3VLMoe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48,
        decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip


def onevision(folder: Path, head: bool = False) -> Path:
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    vision = {
        "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4, "hidden_size": 48,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "vision_use_head": head,
    }  # fmt: skip
    pinpoints = [[32 * rows, 32 * columns] for rows in range(1, 5) for columns in range(1, 5)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **decoder(words, bos_token_id=None)},
        image_grid_pinpoints=pinpoints, image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"), vision_feature_layer=-1,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    model.model.image_newline.data.normal_()
    pixels = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints
    )
    made = images_only(transformers.LlavaOnevisionProcessor)
    settings = {"num_image_tokens": 64, "vision_feature_select_strategy": "full"}
    processor = made(pixels, words, chat_template=TEMPLATE, vision_aspect_ratio="anyres_max_1", **settings)
    return finish(folder, model, processor)


def next_video(folder: Path) -> Path:
    words = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    pinpoints = [[24, 48], [48, 24], [48, 48]]
    config = transformers.LlavaNextVideoConfig(
        vision_config=clip(24), text_config={"model_type": "llama", **decoder(words)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"), image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaNextVideoForConditionalGeneration(config)
    model.model.image_newline.data.normal_()
    pixels = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=pinpoints
    )
    made = images_only(transformers.LlavaNextVideoProcessor)
    settings = {
        "patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1
    }  # fmt: skip
    parts = {"image_processor": pixels, "tokenizer": words}
    return finish(folder, model, made(**parts, chat_template=TEMPLATE, **settings))


def internvl(folder: Path, text: str = "qwen2") -> Path:
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    words = tokenizer(names)
    vision = {
        "image_size": [32, 32], "patch_size": [4, 4], "hidden_size": 48, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 4, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config=vision, image_seq_length=16, downsample_ratio=0.5,
        text_config={"model_type": text, **decoder(words, bos_token_id=None, head_dim=16)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.InternVLForConditionalGeneration(config)
    pixels = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    template = TEMPLATE.replace("<image> ", "<IMG_CONTEXT> ")
    made = images_only(transformers.InternVLProcessor)
    return finish(folder, model, made(pixels, words, image_seq_length=16, chat_template=template))


def internvl35(folder: Path) -> Path:
    return internvl(folder, "qwen3")


def gemma3(folder: Path) -> Path:
    names = {"image_token": "<soft>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(names)
    vision = {
        "image_size": 32, "patch_size": 4, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }  # fmt: skip
    kinds = ["full_attention" if number % 3 == 2 else "sliding_attention" for number in range(6)]
    text = decoder(words, head_dim=16, sliding_window=24, layer_types=kinds, query_pre_attn_scalar=16)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=16,
        image_token_index=words.convert_tokens_to_ids("<soft>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config)
    for parameter in model.model.multi_modal_projector.parameters():  # they start at zero
        parameter.data.normal_(std=0.1)
    pixels = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    template = TEMPLATE.replace("<image>", "<start_of_image>")
    processor = transformers.Gemma3Processor(pixels, words, image_seq_length=16, chat_template=template)
    return finish(folder, model, processor)


def idefics3(folder: Path, kind: str = "Idefics3") -> Path:
    places = {f"row_{row}_{column}": f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)}
    names = {
        "image_token": "<image>", "fake": "<fake_token_around_image>", "whole": "<global-img>",
        "end": "<end_of_utterance>", **places,
    }  # fmt: skip
    words = tokenizer(names)
    vision = {
        "image_size": 32, "patch_size": 4, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, text_config={"model_type": "llama", **decoder(words)}, scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"), pad_token_id=words.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    pixels = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = transformers.Idefics3Processor(pixels, words, image_seq_len=16, chat_template=TEMPLATE)
    return finish(folder, model, processor)


def smolvlm(folder: Path) -> Path:
    return idefics3(folder, "SmolVLM")


def glm(folder: Path, kind: str = "Glm4v") -> Path:
    names = {
        "image_token": "<|image|>", "video_token": "<|video|>", "image_start_token": "<|begin_of_image|>",
        "image_end_token": "<|end_of_image|>", "video_start_token": "<|begin_of_video|>",
        "video_end_token": "<|end_of_video|>",
    }  # fmt: skip
    words = tokenizer(names)
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 1], "partial_rotary_factor": 0.5
    }  # fmt: skip
    text = {
        "model_type": "glm4v_text", **decoder(words, bos_token_id=None, head_dim=16, rope_parameters=rope)
    }  # fmt: skip
    vision = {
        **VISION, "model_type": "glm4v_vision", "hidden_size": 48, "intermediate_size": 96,
        "out_hidden_size": 64, "image_size": 32,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **ids)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    pixels = getattr(transformers, f"{kind}ImageProcessorPil")(
        patch_size=4, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 2 * 16**2, "longest_edge": 2 * 96**2},
    )  # fmt: skip
    template = TEMPLATE.replace("<image> ", "<|begin_of_image|> <|image|> <|end_of_image|> ")
    made = images_only(getattr(transformers, f"{kind}Processor"))
    return finish(folder, model, made(pixels, words, chat_template=template))


def glm46(folder: Path) -> Path:
    return glm(folder, "Glm46V")


def pixtral(folder: Path, merged: int = 1) -> Path:
    names = {"image_token": "[IMG]", "break": "[IMG_BREAK]", "end": "[IMG_END]"}
    words = tokenizer(names)
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(token, "isolated") for token in names.values()]
        + [pre_tokenizers.WhitespaceSplit()]
    )
    vision = {
        "model_type": "pixtral", "image_size": 48, "patch_size": 4, "hidden_size": 48, "head_dim": 12,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    }  # fmt: skip
    text = {"model_type": "mistral", "sliding_window": None, "head_dim": 16, **decoder(words)}
    common = {"vision_config": vision, "text_config": text, "vision_feature_layer": -1}
    image = words.convert_tokens_to_ids("[IMG]")
    torch.manual_seed(0)
    if merged == 1:
        made = transformers.LlavaConfig(
            image_token_index=image, vision_feature_select_strategy="full", image_seq_length=1, **common
        )
        model: Any = transformers.LlavaForConditionalGeneration(made)
    else:
        config = transformers.Mistral3Config(image_token_index=image, spatial_merge_size=merged, **common)
        model = transformers.Mistral3ForConditionalGeneration(config)
    pixels = transformers.PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size=4)
    template = TEMPLATE.replace("<image>", "[IMG]")
    return finish(folder, model, PixtralProcessor(pixels, words, 4, merged, chat_template=template))


def mistral3(folder: Path) -> Path:
    return pixtral(folder, merged=2)


def gemma4(folder: Path, **settings: Any) -> Path:
    names = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>", "video": "<|video|>",
    }  # fmt: skip
    words = tokenizer(names)
    vision = {
        "patch_size": 4, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 12,
        "num_attention_heads": 4, "num_key_value_heads": 4, "pooling_kernel_size": 2,
        "position_embedding_size": 64,
    }  # fmt: skip
    kinds = ["full_attention" if number % 3 == 2 else "sliding_attention" for number in range(6)]
    own = {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision", **settings}
    text = decoder(words, head_dim=16, global_head_dim=16, sliding_window=24, layer_types=kinds, **own)
    ids = {f"{name}_id": words.convert_tokens_to_ids(names[name]) for name in list(names)[:6]}
    ids["video_token_id"] = words.convert_tokens_to_ids("<|video|>")
    config = transformers.Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **ids)
    torch.manual_seed(0)
    model = transformers.Gemma4ForConditionalGeneration(config)
    pixels = transformers.Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70)
    made = images_only(transformers.Gemma4Processor)
    absent = {"feature_extractor": None, "video_processor": None}
    template = TEMPLATE.replace("<image>", "<|image|>")
    processor = made(image_processor=pixels, tokenizer=words, chat_template=template, **absent)
    return finish(folder, model, processor)


def qwen3_5(folder: Path) -> Path:
    rope = {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }  # fmt: skip
    kinds = ["linear_attention", "linear_attention", "full_attention"] * 2
    text = {
        "rope_parameters": rope, "head_dim": 16, "layer_types": kinds, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "out_hidden_size": 64, "num_position_embeddings": 64
    }  # fmt: skip
    return qwen(folder, "Qwen3_5", text, vision)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llava_onevision": onevision,
    "llava_next_video": next_video,
    "internvl": internvl,
    "internvl-qwen3": internvl35,
    "qwen2_vl": qwen2,
    "qwen3_vl": qwen3,
    "qwen3_vl_moe": qwen3_moe,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "glm4v": glm,
    "glm46v": glm46,
    "mistral3": mistral3,
    "llava with pixtral": pixtral,
}
AT_INPUT: dict[str, Callable[[Path], Path]] = {"qwen3_5": qwen3_5}  # where tokens go before the decoder only


def qwen25(folder: Path) -> Path:
    return build_tiny_qwen(folder)


VIDEO: dict[str, Callable[[Path], Path]] = {  # that read videos
    "qwen2_5_vl": qwen25,
    **{name: BUILDERS[name] for name in ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "llava_onevision",
                                         "llava_next_video")},
}  # fmt: skip
