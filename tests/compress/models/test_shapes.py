from __future__ import annotations

import pytest
import torch

from baselines import FastV
from compress.attach.session import attach
from compress.models.loading import MLLM
from compress.models.shapes import SHAPES, build, random_inputs


@pytest.mark.parametrize(
    ("name", "tokens", "layers", "billions"),
    [
        ("llava-1.5-7b", 576, 32, 7.06),
        ("llava-1.5-13b", 576, 40, 13.35),
        ("llava-next-7b", 2880, 32, 7.06),
        ("qwen2.5-vl-7b", 1225, 28, 8.29),
        ("qwen3-vl-2b", 961, 28, 2.127532032),
        ("qwen3-vl-4b", 961, 36, 4.437815808),
        ("qwen3-vl-8b", 961, 36, 8.767123696),
        ("qwen3-vl-30b-a3b", 961, 48, 31.070754032),
        ("internvl3-8b", 3328, 28, 7.944373760),
        ("llava-onevision-7b", 8154, 28, 8.030348832),
    ],
)
def test_shapes_are_the_published_ones(name: str, tokens: int, layers: int, billions: float):
    mllm = build(name, device="meta", dtype=torch.bfloat16)
    assert (mllm.visual_tokens, mllm.layers) == (tokens, layers)
    digits = 0.006 if billions == round(billions, 2) else 1e-9
    assert sum(each.numel() for each in mllm.model.parameters()) / 1e9 == pytest.approx(billions, abs=digits)
    assert {each.dtype for each in mllm.model.parameters()} == {torch.bfloat16}
    assert mllm.name == f"{name} shape, random weights"


@pytest.mark.parametrize("name", SHAPES)
def test_a_slice_says_what_is_left(name: str):
    whole, cut = (build(name, device="meta", depth=depth) for depth in (None, 4))
    assert cut.layers == 4 and cut.visual_tokens == whole.visual_tokens
    part = -(-len(whole.tower_layers) * 4 // whole.layers)
    assert len(cut.tower_layers) == part
    said = f"slice of 4 of {whole.layers} decoder layers and {part} of {len(whole.tower_layers)} tower layers"
    assert said in cut.name


def test_a_slice_can_leave_the_tower_whole():
    cut = build("llava-1.5-7b", device="meta", depth=4, whole_tower=True)
    assert (cut.layers, len(cut.tower_layers)) == (4, 24)
    assert cut.name == "llava-1.5-7b shape, random weights, slice of 4 of 32 decoder layers"


def test_the_default_dtype_is_what_it_was():
    build("llava-1.5-7b", device="meta", dtype=torch.float16, depth=1)
    assert torch.get_default_dtype() == torch.float32


def test_unknown_shapes_and_slices_are_refused():
    with pytest.raises(ValueError, match="unknown shape 'llava-next-13b'; did you mean 'llava-next-7b'"):
        build("llava-next-13b")
    for depth in (0, 33):
        with pytest.raises(ValueError, match=f"depth slice {depth}: choose 1 to 32 decoder layers"):
            build("llava-1.5-7b", device="meta", depth=depth)


@pytest.mark.parametrize("family", ["tiny", "tiny_next", "tiny_qwen"])
@pytest.mark.parametrize("batch", [1, 2])
def test_random_inputs_are_a_prompt_around_the_largest_image(
    request: pytest.FixtureRequest, family: str, batch: int
):
    mllm: MLLM = request.getfixturevalue(family)
    inputs = random_inputs(mllm, text=7, batch=batch)
    assert inputs["input_ids"].shape == (batch, mllm.visual_tokens + 7)
    with attach(mllm, FastV(), 20, match="tokens") as trace:
        mllm.model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert [(one.tokens, one.text, one.entering[-1]) for one in trace.samples] == [
        (mllm.visual_tokens, 7, 20)
    ] * batch


def test_text_is_needed_on_both_sides_of_the_image(tiny: MLLM):
    with pytest.raises(ValueError, match="1 text tokens: choose 2 or more"):
        random_inputs(tiny, 1)
