"""Models of exact published sizes with random weights: a latency does not depend on the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from compress.families.llava import Llava
from compress.models import MLLM
from compress.network import Compressor


@dataclass(frozen=True)
class LlavaShape:
    """LLaVA-1.5: CLIP ViT-L/14 at 336 pixels, 576 visual tokens, and a Vicuna of these sizes."""

    hidden: int
    intermediate: int
    heads: int
    layers: int


SHAPES = {
    "llava-1.5-7b": LlavaShape(4096, 11008, 32, 32),
    "llava-1.5-13b": LlavaShape(5120, 13824, 40, 40),
}


def random_llava(name: str, layers: int | None = None, seed: int = 0) -> tuple[MLLM, Compressor]:
    """A model of `SHAPES` in bfloat16, of the first `layers` decoder layers if given, and a compressor.

    It has no processor, and nothing that it says means anything.
    """
    shape = SHAPES[name]
    if layers is not None and not 1 <= layers <= shape.layers:
        raise ValueError(f"--depth-slice {layers}: {name} has {shape.layers} layers")
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=32064, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=layers or shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, max_position_embeddings=4096, rms_norm_eps=1e-5,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=32000, image_seq_length=576,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
        compressor = Compressor(text)
    model = model.bfloat16().to_empty(device="cpu")
    compressor = compressor.to_empty(device="cpu")
    for part in (model, compressor):
        _fill(part, generator)
    # Buffers are left empty as well: rotary tables and the tower's numbering are made anew.
    decoder, embeddings = model.model.language_model, model.model.vision_tower.embeddings
    decoder.rotary_emb = type(decoder.rotary_emb)(config=text)
    compressor.rotary = type(compressor.rotary)(config=compressor.config)
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return Llava(model.eval(), None, name), compressor.eval()


@torch.no_grad()
def _fill(part: nn.Module, generator: torch.Generator) -> None:
    for weight in part.parameters():
        if weight.ndim > 1:
            weight.normal_(std=0.02, generator=generator)
        else:
            weight.fill_(1)
