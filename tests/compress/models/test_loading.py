from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compress.models.families import FAMILIES, MISSING
from compress.models.loading import MLLM, adapt, family_of, load
from tests.tiny_families import gemma4

QUESTIONS = ["what color is the star ?", "how many ?"]


def test_geometry_is_read_from_the_configuration(tiny: MLLM):
    assert (tiny.layers, tiny.grid, tiny.visual_tokens) == (6, (12, 12), 144)


def test_prompts_are_chat_formatted_and_padded_on_the_left(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:2], QUESTIONS)
    assert inputs["attention_mask"][:, 0].tolist() == [1, 0]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    assert (inputs["input_ids"] == tiny.image_token_id).sum(1).tolist() == [144, 144]
    text = tiny.processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
    assert text.split() == "user : what color is the star ? assistant :".split()


def test_embedding_equals_what_the_model_makes_of_the_pixels(tiny: MLLM, pictures):
    embedded = tiny.embed(pictures[0], QUESTIONS[0])
    inputs = tiny.prepare(pictures[:1], QUESTIONS[:1])
    with torch.no_grad():
        expected = tiny.model(**inputs).logits
        hidden = tiny.decoder(inputs_embeds=embedded.embeds[None]).last_hidden_state
    assert torch.equal(tiny.head(hidden), expected)
    assert embedded.prompt == len(embedded.embeds) and len(embedded.response) == 0


def test_a_response_follows_the_prompt_and_ends_with_the_end_token(tiny: MLLM, pictures):
    plain, embedded = (tiny.embed(pictures[0], QUESTIONS[0], response) for response in (None, "red circle"))
    tokenizer = tiny.processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(embedded.response.tolist()) == ["red", "circle", "</s>"]
    assert embedded.prompt == plain.prompt and len(embedded.embeds) == plain.prompt + 3
    assert torch.equal(embedded.embeds[: plain.prompt], plain.embeds)
    assert torch.equal(embedded.embeds[plain.prompt :], tiny.decoder.embed_tokens(embedded.response))
    assert embedded.visual.tolist() == list(range(2, 146))


def test_answers_do_not_depend_on_the_batch(tiny: MLLM, pictures):
    together = tiny.answer(pictures[:2], QUESTIONS, max_new_tokens=4)
    alone = [tiny.answer(pictures[i : i + 1], QUESTIONS[i : i + 1], max_new_tokens=4)[0] for i in range(2)]
    assert together == alone


def test_the_fingerprint_is_the_same_for_the_same_weights_only(tiny: MLLM, tiny_folder: Path):
    again = load(str(tiny_folder))
    assert again.fingerprint() == tiny.fingerprint()
    again.model.config.mm_vision_tower = "another CLIP, which the model itself never runs"
    assert again.fingerprint() == tiny.fingerprint()
    with torch.no_grad():
        again.decoder.norm.weight[0] += 1e-3
    assert again.fingerprint() != tiny.fingerprint()


def test_a_model_can_be_loaded_in_half_precision(tiny_folder: Path, pictures):
    half = load(str(tiny_folder), dtype=torch.bfloat16)
    assert half.prepare(pictures[:1], QUESTIONS[:1])["pixel_values"].dtype == torch.bfloat16
    assert half.embed(pictures[0], "how many ?").embeds.dtype == torch.bfloat16


def test_an_unknown_name_suggests_a_shipped_one():
    with pytest.raises(ValueError, match="unknown model 'mirco'; did you mean 'micro'"):
        load("mirco")


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot load model"):
        load(str(tmp_path))


def test_a_model_of_another_family_is_refused(tmp_path: Path):
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    with pytest.raises(ValueError, match="LlamaForCausalLM is not a supported multimodal model"):
        adapt(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'llama' model; supported: .*llava, .*llava_next"):
        load(str(tmp_path))


def test_code_beside_a_model_is_not_run(tiny: MLLM, tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "coded")
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    own = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": own}))
    for name in ("processor_config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        own = {"AutoProcessor": "own.Processor", "AutoTokenizer": ["own.Words", "own.Words"]}
        (folder / name).write_text(json.dumps(settings | {"auto_map": own}))
    loaded = load(str(folder))
    assert type(loaded.model) is type(tiny.model) and type(loaded.processor) is type(tiny.processor)
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    with pytest.raises(ValueError, match="cannot load model"):
        load(str(folder))


def test_pickled_weights_are_refused(tiny: MLLM, tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load model .*safetensors"):
        load(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_fifo_among_the_files_is_refused_before_it_is_opened(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "fifo")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}: this is a FIFO; give a regular file"):
        load(str(folder))


def test_a_part_of_a_model_is_refused(tiny: MLLM):
    with pytest.raises(ValueError, match="LlavaModel is not a supported"):
        adapt(tiny.model.model)


def test_empty_questions_and_unequal_lists_are_refused(tiny: MLLM, pictures):
    with pytest.raises(ValueError, match="question 1 is empty"):
        tiny.prepare(pictures[:2], ["how many ?", "  "])
    with pytest.raises(ValueError, match="2 images and 1 questions"):
        tiny.prepare(pictures[:2], ["how many ?"])


def test_a_model_without_processor_says_what_to_do(tiny: MLLM, pictures):
    with pytest.raises(ValueError, match="load it by name"):
        adapt(tiny.model).prepare(pictures[:1], ["how many ?"])


ORIGINAL = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}


@pytest.mark.parametrize("kind", ["llava", "llava_llama", "llava_mistral"])
def test_an_original_llava_folder_is_told_of_the_converted_checkpoint(tmp_path: Path, monkeypatch, kind: str):
    def built(*_, **__):
        pytest.fail("a model was built")

    monkeypatch.setattr("compress.models.loading.AutoModelForImageTextToText.from_pretrained", built)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 4096, **ORIGINAL}))
    for ask in load, family_of:
        with pytest.raises(ValueError, match="original LLaVA code.*converted.*llava-hf/llava-1.5-7b-hf"):
            ask(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ([], "config.json"),
        ({}, f"no model_type; supported: {', '.join(sorted(FAMILIES))}"),
        ({"model_type": ["llava"]}, "model_type"),
        ({"model_type": "x" * 5000}, "model; supported: gemma3"),
        ({"model_type": "llava", "text_config": 3}, "text_config"),
        ({"model_type": "llava", "text_config": {"model_type": "lama"}}, "did you mean 'llama'"),
        ({"model_type": "llava", "vision_config": {"model_type": "nope"}}, "unknown model type 'nope'"),
        ({"model_type": "llava", "text_config": {"vocab_size": "many"}}, "text_config.vocab_size is 'many'"),
        ({"model_type": "llava", "text_config": {"model_type": "llama", "head_dim": "a"}}, "not valid"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused_in_one_short_line(tmp_path: Path, config, said: str):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as caught:
        load(str(tmp_path))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("", "image_token_id", None, "image_token_id is null, but it must be a whole number"),
        ("", "vision_feature_layer", 99, "vision_feature_layer is 99, but its tower has"),
        ("", "vision_feature_layer", [-1, -99], "vision_feature_layer is -99, but its tower has"),
        ("text_config", "hidden_size", -4, "text_config.hidden_size is -4"),
        ("text_config", "hidden_size", 10**9, "text_config.hidden_size is 1000000000"),
        ("text_config", "num_hidden_layers", 10**6, "text_config.num_hidden_layers is 1000000"),
        ("text_config", "vocab_size", 10**12, "text_config.vocab_size is 1000000000000"),
        ("text_config", "hidden_act", "no", "its files make no model (KeyError: 'no')"),
        ("text_config", "model_type", "t5", "its files make no model"),
        ("vision_config", "patch_size", 0, "its files make no model (ZeroDivisionError"),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused_in_one_short_line(
    part: str, field: str, value: Any, said: str, tiny_folder: Path, tmp_path: Path
):
    folder = shutil.copytree(tiny_folder, tmp_path / "odd")
    told = json.loads((folder / "config.json").read_text())
    (told[part] if part else told)[field] = value
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError) as caught:
        load(str(folder))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["generation_config.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]", "null", "[" * 100_000])
def test_settings_that_are_none_are_refused_in_one_short_line(
    name: str, content: str, tiny_folder: Path, tmp_path: Path
):
    folder = shutil.copytree(tiny_folder, tmp_path / "odd")
    assert (folder / name).exists()
    (folder / name).write_text(content)
    with pytest.raises(ValueError) as caught:
        load(str(folder))
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", "{}", "[" * 100_000])
def test_a_tokenizer_that_is_none_is_refused_in_one_short_line(
    content: str, tiny_folder: Path, tmp_path: Path
):
    folder = shutil.copytree(tiny_folder, tmp_path / "odd")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="its files make no model") as caught:
        load(str(folder))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("family", MISSING)
def test_a_known_family_without_an_adapter_is_refused_with_what_is_missing(family: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    why = re.escape(MISSING[family])
    with pytest.raises(ValueError, match=f"it is a '{family}' model; {why}; supported: ") as told:
        load(str(tmp_path))
    assert "\n" not in str(told.value) and family not in FAMILIES


@pytest.mark.parametrize(
    "settings",
    [{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300}, {"num_kv_shared_layers": 2}],
    ids=["per-layer inputs", "shared keys"],
)
def test_a_small_gemma_4_is_refused(settings: dict[str, int], tmp_path: Path):
    """Its layers are handed inputs of their own, by position, and its last ones reuse keys of others."""
    with pytest.raises(ValueError, match="is a small Gemma 4, whose layers have inputs of their own"):
        load(str(gemma4(tmp_path / "gemma", **settings)))
