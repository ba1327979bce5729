"""The micro model's twins: the same world, words and lessons in other model families and widths.

`micro-next` is a LLaVA-NeXT, `micro-qwen` a Qwen2.5-VL, `micro-wide` a LLaVA with a wider decoder. None is
trained from scratch: their decoders are grown from the micro model's (`grow`) and tuned, so that a laptop can
build them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from compress.micro.language import CHAT_TEMPLATE, QWEN_TOKENS, tokenizer
from compress.micro.recipe.decoder import Frame, TrainingModel, llava, new_model, opening
from compress.micro.recipe.optim import Optimiser, checkpointed
from compress.micro.recipe.tower import MEAN, PATCHES, STD, SceneBatch, cut, normalise
from compress.micro.world import GRID, PATCH, SIDE
from compress.models.families import LlavaNext
from compress.models.processors import images_only

# Parameters that write into new residual dimensions, or read new heads and hidden units, start at zero.
SILENT = ("o_proj.weight", "down_proj.weight", "linear_2.weight", "embed_tokens.weight", "bias")


def grow(target: nn.Module, source: nn.Module) -> None:
    """Copy a smaller network into a wider one of the same depth without changing its function.

    The method is Net2Net (arXiv:1511.05641). Parameters that `source` does not have are unchanged. New
    dimensions of the residual stream are zero, new heads and hidden units have zero output weights, and
    RMSNorm, whose mean is now over more dimensions, is rescaled. Weights that read the new dimensions keep
    their random initialisation, since with zeros the gradients would stay zero.
    """
    with torch.no_grad():
        for name, small in source.named_parameters():
            large = target.get_parameter(name)
            if name.endswith(SILENT) and large.shape != small.shape:
                large.zero_()
            large[tuple(map(slice, small.shape))] = small
            if "norm" in name:
                large.mul_(math.sqrt(small.numel() / large.numel()))


# LLaVA-NeXT ---------------------------------------------------------------------------------------------


def new_next(micro: Any) -> LlavaNextForConditionalGeneration:
    """Build a LLaVA-NeXT with all weights of the micro model, tiles of its image size, and a new newline."""
    config = micro.config
    torch.manual_seed(3)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(  # type: ignore[call-arg]  # pad_token_id is a field of every configuration
            vision_config=config.vision_config, text_config=config.text_config,
            image_token_index=config.image_token_id, vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_grid_pinpoints=[[rows * SIDE, columns * SIDE] for rows, columns in TILINGS],
            tie_word_embeddings=False, pad_token_id=config.pad_token_id,
        )
    )  # fmt: skip
    missing, _ = model.load_state_dict(micro.state_dict(), strict=False)
    assert missing == ["model.image_newline"]
    with torch.no_grad():
        model.model.image_newline.normal_(0, 0.5)  # the initialisation of word embeddings
    model.model.vision_tower.requires_grad_(False)
    return model


TILINGS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows x columns


def llava_next(model: LlavaNextForConditionalGeneration) -> TrainingModel:
    """Set up training of a LLaVA-NeXT's projector, newline and decoder, on square images in five tiles."""
    base = llava(model)
    parts = model.model
    picture = LlavaNext(model).pictures({"image_sizes": [(2 * SIDE, 2 * SIDE)]})[0]
    patches = picture.tiles * PATCHES
    shows = torch.where(picture.tile < 0, patches, picture.tile * PATCHES + picture.patch)

    def project(features: Tensor) -> Tensor:
        newline = parts.image_newline.expand(len(features), 1, -1)
        return torch.cat([parts.multi_modal_projector(features), newline], 1)[:, shows]

    base.trained["newline"] = nn.ParameterList([parts.image_newline])
    places = (len(opening()) + torch.arange(len(shows)))[None]
    return TrainingModel(model, Frame(opening(), places), shows, project, base.trained)


def next_processor(model: Any) -> LlavaNextProcessor:
    """Build the processor, saved beside the weights for `AutoProcessor`."""
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
        image_mean=list(MEAN), image_std=list(STD), do_convert_rgb=True,
    )  # fmt: skip
    return LlavaNextProcessor(
        images, tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


# A wider decoder ----------------------------------------------------------------------------------------


def new_wide(micro: Any, heads: int) -> LlavaForConditionalGeneration:
    """Build the micro model with more heads and proportionally wider layers."""
    text = micro.config.text_config
    width = text.head_dim * heads
    model = new_model(
        micro.config.vision_config, width=width, inner=2 * width, layers=text.num_hidden_layers, heads=heads,
        seed=4,
    )  # fmt: skip
    grow(model, micro)
    return model


# Qwen2.5-VL ---------------------------------------------------------------------------------------------


def new_qwen(micro: Any, heads: int) -> Qwen2_5_VLForConditionalGeneration:
    """Build a Qwen2.5-VL with a new tower; its decoder is the micro model's with more heads.

    Rotary frequencies alternate between time, height and width. With only twelve of them, three contiguous
    sections would leave the four lowest ones for columns, which hardly rotate over twelve positions.
    """
    text, index = micro.config.text_config, tokenizer(QWEN_TOKENS).get_vocab()
    width = text.head_dim * heads
    torch.manual_seed(5)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(index), "hidden_size": width, "intermediate_size": 2 * width,
                "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": heads,
                "num_key_value_heads": heads, "max_position_embeddings": text.max_position_embeddings,
                "rms_norm_eps": text.rms_norm_eps, "initializer_range": text.initializer_range,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"],
                    "mrope_section": [1] * (text.head_dim // 2),
                },
                "pad_token_id": text.pad_token_id, "bos_token_id": text.bos_token_id,
                "eos_token_id": text.eos_token_id, "tie_word_embeddings": False,
            },
            vision_config={
                "depth": 4, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4,
                "patch_size": PATCH // 2, "spatial_merge_size": 2, "temporal_patch_size": 2,
                "window_size": WINDOW * PATCH,
                "fullatt_block_indexes": [1, 3], "out_hidden_size": width, "initializer_range": 0.08,
            },
            image_token_id=index["<|image_pad|>"], video_token_id=index["<|video_pad|>"],
            vision_start_token_id=index["<|vision_start|>"], vision_end_token_id=index["<|vision_end|>"],
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    grow(model.model.language_model, micro.model.language_model)
    grow(model.lm_head, micro.lm_head)
    return model


WINDOW = 4  # visual tokens along a side of an attention window


def qwen_pixels(pixels: Tensor) -> Tensor:
    """Convert uint8 [B, 96, 96, 3] to the tower's input, one row per 4 x 4 patch, as the processor does.

    The four patches of a visual token are adjacent; every patch occurs twice, as two frames of a film.
    """
    x = normalise(pixels).view(len(pixels), 3, GRID, 2, PATCH // 2, GRID, 2, PATCH // 2)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(len(pixels) * 4 * PATCHES, -1)


def windowed(model: Any, pixels: Tensor) -> Tensor:
    """Return the merger's input [B, 576, C] for uint8 [B, 96, 96, 3], in order of windows."""
    grid = torch.tensor([[1, 2 * GRID, 2 * GRID]]).expand(len(pixels), -1)
    out = model.model.visual(qwen_pixels(pixels), grid_thw=grid).last_hidden_state
    return out.view(len(pixels), 4 * PATCHES, -1)


@torch.no_grad()
def qwen_features(model: Any, scenes: SceneBatch) -> Tensor:
    """Return `windowed` of every scene, [n, 576, C] float16."""
    return torch.cat([windowed(model, part).half() for part in torch.from_numpy(scenes.pixels).split(64)])


def qwen(model: Qwen2_5_VLForConditionalGeneration) -> TrainingModel:
    """Set up training of a Qwen2.5-VL's merger, which is its projector, and decoder, on square images."""
    merger = model.model.visual.merger
    order = torch.from_numpy(cut(torch.arange(PATCHES).view(GRID, GRID).numpy(), WINDOW).ravel()).argsort()
    trained = {"projector": merger, "decoder": model.model.language_model, "head": model.lm_head}

    def project(features: Tensor) -> Tensor:
        merged: Tensor = merger(features.flatten(0, 1))
        return merged.view(len(features), PATCHES, -1)[:, order]

    return TrainingModel(model, qwen_frame(), torch.arange(PATCHES), project, nn.ModuleDict(trained))


def qwen_frame() -> Frame:
    """Return the tokens around an image, and M-RoPE's positions, equal to the model's `get_rope_index`."""
    index = tokenizer(QWEN_TOKENS).get_vocab()
    before = (*opening(), index["<|vision_start|>"])
    row, column = torch.arange(PATCHES) // GRID, torch.arange(PATCHES) % GRID
    places = len(before) + torch.stack([torch.zeros_like(row), row, column])
    return Frame(before, places, (index["<|vision_end|>"],))


def qwen_processor(kind: Any = Qwen2_5_VLProcessor) -> Any:
    """Build a processor for images of any shape, with at most as many pixels as a scene."""
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH // 2, merge_size=2, temporal_patch_size=2,
        image_mean=list(MEAN), image_std=list(STD), do_convert_rgb=True,
        size={"shortest_edge": (2 * PATCH) ** 2, "longest_edge": SIDE**2},
    )  # fmt: skip
    image = "<|vision_start|><|image_pad|><|vision_end|> "
    template = CHAT_TEMPLATE.replace("<image> ", image)
    return images_only(kind)(images, tokenizer(QWEN_TOKENS), chat_template=template)


def shares(tokens: Tensor, width: int, levels: int) -> Tensor:
    """Convert visual tokens [B, N, d] to a wider model with DeepStack: [B, N, (1 + levels) * width].

    New dimensions are zero. With DeepStack, the decoder's input has every second dimension, and the `levels`
    levels alternate in the others.
    """
    wide = F.pad(tokens, (0, width - tokens.shape[-1]))
    at = torch.arange(width)
    level = torch.where(at % 2 == 0, 0, 1 + at // 2 % levels) if levels else torch.zeros_like(at)
    return torch.cat([torch.where(level == number, wide, 0.0) for number in range(1 + levels)], -1)


def imitate(
    pupil: TrainingModel, see: Callable[[Tensor], Tensor], teacher: TrainingModel, scenes: SceneBatch,
    features: Tensor, checkpoint: Path, steps: int, log: Callable[[str], None], half: bool = False,
) -> None:  # fmt: skip
    """Train a Qwen's tower and mergers, in place, to reproduce the micro model's visual tokens.

    `see` returns the visual tokens of pixels, uint8 [B, 96, 96, 3]. `features` are those of the micro model
    for the same scenes. Things weigh more than background, as in alignment. The micro model's visual tokens
    encode the positions of patches to some degree. Qwen2.5-VL's cannot, since its tower has no absolute
    positions; its decoder must use M-RoPE. `half`: see `TeachingStage`.
    """
    tower, width = pupil.model.model.visual, pupil.decoder.config.hidden_size
    pixels, kind = torch.from_numpy(scenes.pixels), torch.from_numpy(scenes.kind)
    optimiser = Optimiser(tower, lr=2e-3, matrix_lr=0.01, total=steps)
    for step in checkpointed(checkpoint, tower, optimiser, steps, every=250):
        rng = torch.Generator().manual_seed(4_000_037 + step)
        pick = torch.randint(len(pixels), (16,), generator=rng)
        with torch.no_grad():
            wanted = teacher.project(features[pick].float())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            given = see(pixels[pick]).float()
        wanted = shares(wanted, width, given.shape[-1] // width - 1)
        weight = torch.where(kind[pick] >= 0, 2.0, 0.5)[..., None]
        loss = (weight * (given - wanted).square()).mean() / (weight * wanted.square()).mean()
        optimiser.step(loss, step)
        if step % 50 == 0:
            log(f"imitate {step}/{steps} loss {loss.item():.3f}")
