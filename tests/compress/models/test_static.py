from __future__ import annotations

import pytest
import torch

from compress.attach.session import attach
from compress.base import INPUT, VISION, Selection, Selector, View, top_k
from compress.models.loading import MLLM
from compress.models.static import compile_decoder, compiled, greedy, static_cache

STEPS = 5
pytestmark = pytest.mark.versions


class Largest(Selector):
    def __init__(self, depth: int):
        self.depth = depth

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(view.hidden.norm(dim=-1), keep))


def answers(mllm: MLLM, inputs) -> torch.Tensor:
    new = mllm.model.generate(
        **inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, pad_token_id=0
    )[:, inputs["input_ids"].shape[1] :]
    assert not (new == mllm.processor.tokenizer.eos_token_id).any()
    return new


@pytest.mark.parametrize("depth", [VISION, INPUT])
def test_greedy_answers_as_generate_does_and_again_after_reset(tiny: MLLM, pictures, depth: int):
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    length = inputs["input_ids"].shape[1] - 144 + 30
    cache = static_cache(tiny, 1, length + STEPS)
    with attach(tiny, Largest(depth), 30):
        expected = answers(tiny, inputs)
        for _ in range(2):
            assert torch.equal(torch.cat(list(greedy(tiny, inputs, cache, STEPS)), 1), expected)
            cache.reset()


@pytest.mark.parametrize("family", ["tiny", "tiny_next", "tiny_qwen"])
def test_every_family_and_the_untouched_model(request: pytest.FixtureRequest, family: str, pictures):
    mllm: MLLM = request.getfixturevalue(family)
    inputs = mllm.prepare(pictures[:1], ["how many ?"])
    cache = static_cache(mllm, 1, inputs["input_ids"].shape[1] + STEPS)
    assert torch.equal(torch.cat(list(greedy(mllm, inputs, cache, STEPS)), 1), answers(mllm, inputs))


def test_a_compiled_forward_is_gone_after_its_block(tiny: MLLM, pictures):
    """What runs in place of the decoder's forward is called, by hooks' leave, and only inside."""
    inputs = tiny.prepare(pictures[:1], ["how many ?"])
    calls = []

    def forward(*args, **kwargs):
        calls.append(kwargs["inputs_embeds"].shape[1])
        return type(tiny.decoder).forward(tiny.decoder, *args, **kwargs)

    length = inputs["input_ids"].shape[1]
    cache = static_cache(tiny, 1, length + STEPS)
    with attach(tiny, Largest(INPUT), 30), compiled(tiny, forward):
        list(greedy(tiny, inputs, cache, 2))
    assert calls == [length - 144 + 30, 1]
    assert "forward" not in vars(tiny.decoder)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a compiler runs
def test_the_compiled_decoder_answers_the_same(tiny: MLLM, pictures):
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    cache = static_cache(tiny, 1, inputs["input_ids"].shape[1] - 144 + 30 + STEPS)
    with attach(tiny, Largest(INPUT), 30):
        expected = answers(tiny, inputs)
        with compiled(tiny, compile_decoder(tiny)):
            assert torch.equal(torch.cat(list(greedy(tiny, inputs, cache, STEPS)), 1), expected)
