"""Fixtures shared by all tests: a tiny random LLaVA, real in every part, built once per session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from compress.models import MLLM, load

torch.set_num_threads(1)

WORDS = """user assistant : ? what is the a an in of to left right color shape how many are there yes no
red green blue white black circle square star ring one two three four five small large above below""".split()
TEMPLATE = (
    "{% for m in messages %}user : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """Save a LLaVA of random weights: 144 visual tokens, tower of 4 layers, decoder of 6 narrow layers with
    GQA.

    Fresh random weights barely react to context, so equality tests would pass whatever the code does: the
    matrices are scaled up until the answer depends on every token.
    """
    words = tokenizer()
    vision = CLIPVisionConfig(
        image_size=48,
        patch_size=4,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=144,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if "embed_tokens" in name:
                parameter.mul_(40)
            elif "lm_head" in name:
                parameter.mul_(12)
            elif "vision_tower" in name:
                parameter.mul_(4)
            else:
                parameter.mul_(6)
    pixels = CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_convert_rgb=True
    )
    processor = LlavaProcessor(
        pixels,
        words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> MLLM:
    """The tiny model through the adapter; shared, so tests must leave it as they found it."""
    return load(str(tiny_folder))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Four different 48 x 48 images: coloured blocks on noise."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(4):
        pixels = rng.integers(0, 80, (48, 48, 3), dtype=np.uint8)
        for _ in range(3):
            top, left = rng.integers(0, 36, 2)
            pixels[top : top + 12, left : left + 12] = rng.integers(100, 255, 3)
        images.append(Image.fromarray(pixels))
    return images
