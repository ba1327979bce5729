"""Prompts that end with the image, which no text sees, and models that run under autocast."""

import pytest
import torch

from baselines import METHODS
from compress.attach.session import attach
from compress.models.loading import MLLM
from tests.methods import OF_IMAGES

ASK = ("fastv", "pyramiddrop", "mustdrop", "sparsevlm")


def ending_with_the_image(mllm: MLLM, picture, words: bool):
    """The prompt of `mllm` with all its text before the image, or with none."""
    inputs = mllm.prepare([picture], ["what color is the star ?"])
    ids = inputs["input_ids"]
    visual = ids == mllm.image_token_id
    inputs["input_ids"] = torch.cat([ids[~visual][None] if words else ids[:, :0], ids[visual][None]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("name", ASK)
def test_a_method_that_asks_the_text_needs_some_behind_the_image(
    tiny: MLLM, pictures, name: str, words: bool
):
    inputs = ending_with_the_image(tiny, pictures[0], words)
    with (
        attach(tiny, METHODS[name](), 40, match="tokens"),
        pytest.raises(ValueError, match="(?i)asks the (text behind|words after) the image: put the question"),
    ):
        tiny.model(**inputs)


@pytest.mark.parametrize("name", ["grid", "cover", "visionzip", "fastv:all"])
def test_other_methods_need_none(tiny: MLLM, pictures, name: str):
    method = METHODS["fastv"](queries="all") if name == "fastv:all" else METHODS[name]()
    with attach(tiny, method, 40, match="tokens") as trace, torch.no_grad():
        tiny.model(**ending_with_the_image(tiny, pictures[0], True))
    assert trace.samples[0].entering[-1] == 40


@pytest.mark.parametrize("name", sorted(set(OF_IMAGES) - {"evocomp", "evocomp+"}))
def test_every_method_runs_under_autocast(tiny: MLLM, pictures, name: str):
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    keep = tiny.visual_tokens if name == "none" else 48
    with (
        torch.autocast("cpu", torch.bfloat16),
        attach(tiny, METHODS[name](), keep, match="tokens") as trace,
    ):
        tiny.model.generate(**inputs, max_new_tokens=2)
    assert trace.samples[0].entering[-1] == keep
