"""The page on families leads to a family: its example is added and goes through the battery."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

import tests.compress.models.test_battery as battery
from compress.base import INPUT
from compress.models.families import FAMILIES
from compress.models.loading import MLLM, load
from tests.conftest import TEMPLATE, decoder, tokenizer
from tests.own_selectors import images_of
from tests.tiny_families import finish

PAGE = Path(__file__).parents[3] / "docs" / "families.md"


@pytest.fixture
def mllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MLLM:
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ((family, kind),) = re.findall(r"line in `FAMILIES` is `\"(\w+)\": (\w+)`", page)
    made: Any = ModuleType("added")
    monkeypatch.setitem(sys.modules, "added", made)
    exec(compile(code, "added.py", "exec"), vars(made))
    monkeypatch.setitem(FAMILIES, family, getattr(made, kind))
    return load(str(deepseek(tmp_path / family)))


def deepseek(folder: Path) -> Path:
    words = tokenizer()
    vision = {
        "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 4, "hidden_size": 48,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "vision_use_head": False,
    }  # fmt: skip
    config = transformers.DeepseekVLConfig(
        text_config={"model_type": "llama", **decoder(words)}, vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DeepseekVLForConditionalGeneration(config)
    pixels = transformers.DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=4)
    processor = transformers.DeepseekVLProcessor(pixels, words, chat_template=TEMPLATE, num_image_tokens=64)
    return finish(folder, model, processor)


def test_the_family_of_the_page_passes_the_battery(mllm: MLLM, monkeypatch: pytest.MonkeyPatch):
    images = images_of(battery.SHAPES)
    assert (mllm.visual_tokens, mllm.layers, mllm.tower_depth) == (64, 6, 4)
    battery.test_a_stage_that_keeps_all_changes_no_bit(mllm, images, 2)
    battery.test_dropping_equals_hiding_from_the_stock_model(mllm, images, {INPUT: 0.7, 1: 0.5, 4: 0.3})
    battery.test_a_batch_equals_its_samples(mllm, images, {2: 0.3})
    battery.test_several_images_of_a_prompt_have_a_budget_each(mllm, images)
    battery.test_candidate_losses_equal_hiding(mllm, images, "as it is", monkeypatch)
    battery.test_tokens_are_made_of_the_patches_that_the_adapter_names(mllm, images)
    battery.test_attention_received_is_that_of_the_towers_own_eager_kernel(mllm, images)
    battery.test_every_method_that_the_family_has_signals_for(mllm, images)
