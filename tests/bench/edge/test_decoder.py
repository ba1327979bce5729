"""The fixed-shape decoder in torch, beside transformers' Llama and beside itself at other chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from bench.edge.decoder import FixedDecoder, int8
from bench.edge.precision import Precision
from bench.edge.protocol import Protocol
from bench.edge.timing import relative


def reference(llama, rows, positions=None):
    """Logits of the last four rows from transformers."""
    places = torch.arange(len(rows)) if positions is None else torch.from_numpy(positions)
    with torch.no_grad():
        # With a mask, since gaps without one would cut the prompt in pieces.
        out = llama(
            inputs_embeds=torch.from_numpy(rows)[None], position_ids=places[None],
            attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        )  # fmt: skip
    return out.logits[0, -4:].numpy()


def test_floats_equal_transformers_over_chunks_and_decoding(llama, in_torch, prompt, say):
    ours = say(in_torch("W32A32KV32"), prompt)
    assert relative(ours, reference(llama, prompt)) < 1e-5


def test_rows_may_stand_at_places_with_gaps(llama, in_torch, prompt, say):
    places = np.cumsum(np.random.default_rng(2).integers(1, 9, len(prompt)))
    ours = say(in_torch("W32A32KV32"), prompt, places)
    assert relative(ours, reference(llama, prompt, places)) < 1e-5
    assert relative(ours, reference(llama, prompt)) > 1e-2


def test_an_int8_cache_is_near(llama, in_torch, prompt, say):
    error = relative(say(in_torch("W32A32KV8"), prompt), reference(llama, prompt))
    assert 1e-4 < error < 3e-2


@pytest.mark.parametrize("chunk", [1, 5, 7, 24])
def test_where_chunks_begin_does_not_matter(chunk: int, in_torch, prompt, say):
    expected = say(in_torch("W32A32KV32"), prompt)
    assert relative(say(in_torch("W32A32KV32", Protocol(chunk, (48, 32))), prompt), expected) < 1e-5


def test_a_prompt_forgets_the_one_before(in_torch, prompt, say):
    runner = in_torch("W4A32KV8")
    first = say(runner, prompt)
    say(runner, prompt[::-1].copy())
    assert np.array_equal(say(runner, prompt), first)


def test_padding_leaves_no_rows(in_torch, prompt):
    runner = in_torch("W32A32KV8")
    runner.prefill(prompt[:21], np.arange(21))
    assert runner.filled == 21
    assert runner.cache["keys"][:, :, :21].any(-1).all() and not runner.cache["keys"][:, :, 21:].any()


def test_memory_of_the_cache_is_what_int8_takes(in_torch):
    numbers = 2 * 2 * 48 * 2  # layers, heads, rows, keys and values
    assert in_torch("W32A32KV8").cache_bytes == numbers * (32 + 4)
    assert in_torch("W32A32KV32").cache_bytes == numbers * 32 * 4


def test_int8_by_hand():
    levels, scales = int8(torch.tensor([[127.0, -63.4, 0.4], [0, 0, 0]]))
    assert levels.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert scales[0].item() == 1


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ],
)  # fmt: skip
def test_other_decoders_are_refused(change):
    small = {"vocab_size": 8, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(**small, num_attention_heads=2, **change))
    with pytest.raises(ValueError, match="covers plain Llama decoders"):
        FixedDecoder(model, torch.nn.Linear(32, 8), Precision())


@pytest.mark.parametrize("label", ["W4A16KV8", "W8A8KV8", "w4a8", "int4"])
def test_a_precision_that_nothing_computes_in_is_refused(label: str):
    with pytest.raises(ValueError, match="write W4 or W32"):
        Precision.parse(label)


def test_float_weights_have_no_int8_kernel():
    with pytest.raises(ValueError, match="write W32A32"):
        Precision.parse("W32A8KV8")
