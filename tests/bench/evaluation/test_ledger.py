from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig

from baselines.fastv import FastV
from bench.evaluation.ledger import DecoderShape, Ledger
from compress.attach.prefill import Record
from compress.attach.session import attach
from compress.models.loading import MLLM, load

VICUNA = DecoderShape(
    layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128, vocabulary=32000
)


@pytest.mark.parametrize(
    ("visual", "tera", "mebibytes"), [(2880, 42.29, 1460), (576, 8.18, 308), (192, 3.03, 116), (64, 1.35, 52)]
)
def test_a_7b_model_costs_what_is_known(visual: int, tera: float, mebibytes: int):
    """With 40 text tokens; analytic figures that equal the FLOP counter of torch."""
    ledger = Ledger(VICUNA, [visual] * 32, text=40)
    assert round(ledger.prefill_flops / 1e12, 2) == tera
    assert ledger.kv_bytes() == mebibytes * 2**20


def test_flops_equal_the_counter_for_a_decoder_with_grouped_queries(tiny_folder):
    mllm = load(str(tiny_folder))
    mllm.model.set_attn_implementation("eager")  # the counter overlooks fused attention on CPU
    embeds = torch.zeros(1, 100, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mllm.head(mllm.decoder(inputs_embeds=embeds).last_hidden_state[:, -1])
    ledger = Ledger(DecoderShape.of(mllm.decoder.config), [80] * 6, text=20)
    rotary = 2 * 100 * 8  # positions times frequencies: a matrix product in some versions of transformers
    assert counter.get_total_flops() - ledger.prefill_flops in (0, rotary)


def test_pruned_flops_and_cache_are_those_of_the_run(tiny_folder, pictures):
    mllm = load(str(tiny_folder))
    with attach(mllm, FastV(), 40) as trace, torch.no_grad():
        output = mllm.model(**mllm.prepare(pictures[:1], ["how many ?"]), use_cache=True)
    (record,) = trace.samples
    ledger = Ledger(DecoderShape.of(mllm.decoder.config), record.entering, record.text)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    assert ledger.kv_bytes(element=4) == held
    assert ledger.average == pytest.approx(sum(record.entering) / 6)
    assert abs(ledger.average - 40) <= 0.5


def test_the_average_says_what_was_really_spent():
    """FastV on 12 layers asked for 16 of 144: 4 tokens after the first layer are the nearest possible."""
    shape = DecoderShape(12, 64, 128, 4, 2, 16, 40)
    assert Ledger(shape, [144] + [4] * 11, text=9).average == pytest.approx(15.67, abs=0.01)


def test_the_head_dimension_may_be_implicit(tiny: MLLM):
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    assert DecoderShape.of(config).head_dim == 16 and DecoderShape.of(tiny.decoder.config).kv_heads == 2
    assert DecoderShape.of(LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=32)).head_dim == 32


def test_the_cost_of_choosing_is_that_of_the_first_samples():
    """However many were counted: that depends on the size of a batch, and a result must not."""

    def record(visual: int, flops: float | None) -> Record:
        return Record(9, visual + 1, [9, visual], [9, visual - 1], {}, {}, flops)

    shape = DecoderShape(2, 64, 128, 4, 2, 16, 40)
    made = Ledger.mean(shape, [record(2, 4.0), record(4, 8.0), record(6, 90.0), record(8, None)], 2)
    assert (made.selection, made.text) == (6, 6)
    assert (made.entering, made.cached) == ((9, 5), (9, 4))
    assert Ledger.mean(shape, [record(2, None)]).selection == 0


def test_counts_for_another_depth_are_refused():
    with pytest.raises(ValueError, match="3 token counts for a decoder of 32 layers"):
        Ledger(VICUNA, [1, 2, 3], text=4)


def test_what_leaves_a_layer_enters_the_next():
    ledger = Ledger(DecoderShape(4, 64, 128, 4, 2, 16, 40), [144, 144, 36, 12], text=9)
    assert list(ledger.leaving) == [144, 36, 12, 12]
    assert (ledger.average, ledger.average_leaving) == (84, 51)


def test_published_readings_of_a_budget_follow_from_the_layers():
    """FastV's K = 2 and 144 tokens after it are 171 by input; SparseVLM counts output, 192.4 for "192"."""
    assert Ledger(VICUNA, [576] * 2 + [144] * 30, text=40).average == 171
    staged = Ledger(VICUNA, [576] * 3 + [300] * 4 + [200] * 9 + [118] * 16, text=40)
    assert round(staged.average_leaving, 1) == 192.4
    assert round(staged.average, 1) == 206.8


def test_choosing_is_part_of_the_prefill():
    shape = DecoderShape(4, 64, 128, 4, 2, 16, 40)
    plain, choosing = Ledger(shape, [8] * 4, text=9), Ledger(shape, [8] * 4, text=9, selection=1e6)
    assert choosing.prefill_flops - plain.prefill_flops == 1e6
    assert choosing.decode_flops(3) == plain.decode_flops(3)


def test_a_decoded_token_costs_a_row_in_every_layer_and_attention_to_its_cache():
    """One layer, width 4, two query heads and one key head of 2, feed-forward 6, vocabulary 10, by hand."""
    shape = DecoderShape(layers=1, hidden=4, intermediate=6, heads=2, kv_heads=1, head_dim=2, vocabulary=10)
    ledger = Ledger(shape, [5], text=3)
    projections = 2 * (4 * 4 + 4 * 2 + 4 * 2 + 4 * 4)  # q, k, v, o
    attention = 2 * (4 * 9 + 9 * 4)  # 5 + 3 cached rows and the token's own
    row = projections + 2 * 3 * 4 * 6 + 2 * 4 * 10
    assert ledger.decode_flops() == row + attention
    assert ledger.decode_flops(2) == 2 * row + attention + 2 * (4 * 10 + 10 * 4)


def test_decoding_equals_the_counter_behind_a_pruned_cache(tiny_folder, pictures):
    mllm = load(str(tiny_folder))
    mllm.model.set_attn_implementation("eager")
    inputs = mllm.prepare(pictures[:1], ["how many ?"])
    with attach(mllm, FastV(), 40) as trace, torch.no_grad():
        cache = mllm.model(**inputs, use_cache=True).past_key_values
        token = inputs["input_ids"][:, -1:]
        with FlopCounterMode(display=False) as counter:
            mllm.model(input_ids=token, past_key_values=cache, use_cache=True)
    (record,) = trace.samples
    ledger = Ledger(DecoderShape.of(mllm.decoder.config), record.entering, record.text)
    assert counter.get_total_flops() - ledger.decode_flops() in (0, 2 * 8)  # rotary, see above


def test_a_cut_cache_is_cheaper_to_keep_and_to_read():
    shape = DecoderShape(2, 64, 128, 4, 2, 16, 40)
    whole, cut = Ledger(shape, [100, 50], text=10), Ledger(shape, [100, 50], text=10, cached=[50, 50])
    assert cut.prefill_flops == whole.prefill_flops
    assert whole.kv_bytes() - cut.kv_bytes() == 50 * 2 * 2 * 16 * 2
    assert whole.decode_flops() - cut.decode_flops() == 50 * 2 * 2 * 4 * 16
    with pytest.raises(ValueError, match="1 token counts for a decoder of 2"):
        Ledger(shape, [100, 50], text=10, cached=[50])
