"""Fixtures shared by all tests: a tiny random LLaVA, real in every part, built once per session."""

from __future__ import annotations

import contextlib
import gc
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from compress.models.loading import MLLM, load
from compress.models.processors import images_only

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for processes that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules with most slow tests first, so that no process is left with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # modules and thousands of tests stay: no later collection has to look at them


WORDS = """user assistant : ? what is the a an in of to left right color shape how many are there yes no
red green blue white black circle square star ring one two three four five small large above below""".split()
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : "
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% elif c['type'] == 'video' %}<video> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(special: Mapping[str, str] = MappingProxyType({"image_token": "<image>"})) -> Any:
    """A tokenizer of whole words; `special` names tokens of the family."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *special.values()]
    vocabulary = {word: number for number, word in enumerate([*tokens, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side="left",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=dict(special),
    )


def clip(side: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        image_size=side,
        patch_size=4,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=32,
    )


def build_clip(folder: Path, vision: CLIPVisionConfig, seed: int = 0) -> None:
    """Save a CLIP of random weights for a tower: its text tower reads nine tokens."""
    words = tokenizer()
    start, end = words.bos_token_id, words.eos_token_id
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=40, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=9, bos_token_id=start, eos_token_id=end,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def decoder(words: PreTrainedTokenizerFast, **special: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        **special,
    }


def sharpen(model: Any) -> Any:
    """Fresh random weights barely react to context, so equality tests would pass whatever the code does: the
    matrices are scaled up until the answer depends on every token."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if "embed_tokens" in name:
                parameter.mul_(40)
            elif "lm_head" in name:
                parameter.mul_(12)
            elif "vision_tower" in name or "visual." in name:
                parameter.mul_(4)
            else:
                parameter.mul_(6)
    return model.eval()


WIDE = {"hidden_size": 80, "num_hidden_layers": 9, "head_dim": 20}


def build_tiny(folder: Path, seed: int = 0, special: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """Save a LLaVA of random weights: 144 visual tokens, tower of 4 layers, decoder of 6 narrow layers with
    GQA, unless `special` says otherwise."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=clip(48),
        text_config=LlamaConfig(**decoder(words, **special)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=144,
        mm_vision_tower="clip",
    )
    build_clip(folder / "clip", config.vision_config)
    torch.manual_seed(seed)
    sharpen(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    pixels = CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, do_convert_rgb=True
    )
    LlavaProcessor(
        pixels,
        words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def build_tiny_next(folder: Path, seed: int = 0, special: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """Save a LLaVA-NeXT of random weights: tiles of 36 patches, at most four of them and a thumbnail."""
    words = tokenizer()
    pinpoints = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    config = LlavaNextConfig(
        vision_config=clip(24),
        text_config=LlamaConfig(**decoder(words, **special)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=pinpoints,
        mm_vision_tower="clip",
    )
    build_clip(folder / "clip", config.vision_config)
    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(config)
    model.model.image_newline.data.mul_(20)
    sharpen(model).save_pretrained(folder)
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=pinpoints,
        do_convert_rgb=True,
    )
    LlavaNextProcessor(
        pixels,
        words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def build_tiny_qwen(folder: Path, seed: int = 0, special: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """Save a Qwen2.5-VL of random weights: a window-attention tower, M-RoPE, images of any size."""
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"start": "<|vision_start|>", "end": "<|vision_end|>"}
    words = tokenizer(names)
    ids = {name: words.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLConfig(
        text_config=decoder(words, **{"bos_token_id": None, "rope_parameters": rope, **special}),
        vision_config={
            "depth": 4,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_heads": 4,
            "patch_size": 4,
            "window_size": 32,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": 64,
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )
    torch.manual_seed(seed)
    sharpen(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(folder)
    pixels = Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 16 * 16, "longest_edge": 96 * 96},
    )
    image = f"{names['start']} {names['image_token']} {names['end']} "
    template = TEMPLATE.replace("<image> ", image)
    template = template.replace("<video> ", image.replace("image", "video"))
    images_only(Qwen2_5_VLProcessor)(pixels, words, chat_template=template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> MLLM:
    """The tiny model through the adapter; shared, so tests must leave it as they found it."""
    return load(str(tiny_folder))


@pytest.fixture(scope="session")
def tiny_shallow(tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    """The tiny model with half of the decoder layers, for tests that take long for each layer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-shallow"
    return load(str(build_tiny(folder, special={"num_hidden_layers": 3})))


@pytest.fixture(scope="session")
def tiny_next(tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(build_tiny_next(tmp_path_factory.mktemp("models") / "tiny-next")))


@pytest.fixture(scope="session")
def tiny_next_fixed(tiny_next: MLLM) -> MLLM:
    """The same with five tiles for every image and no newlines."""
    return load(tiny_next.name, anyres="fixed")


@pytest.fixture(scope="session")
def tiny_wide(tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    """The tiny model with another decoder, wider and deeper: the 13B beside the 7B."""
    return load(str(build_tiny(tmp_path_factory.mktemp("models") / "tiny-wide", 5, WIDE)))


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> MLLM:
    return load(str(build_tiny_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")))


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


@pytest.fixture(scope="session")
def setup_py() -> Any:
    """The distribution as setup.py describes it now. Metadata of an installation may be older."""
    import setuptools  # noqa: F401, I001  # it provides distutils
    from distutils.core import run_setup

    with contextlib.chdir(Path(__file__).parent.parent):
        return run_setup("setup.py", stop_after="init")
