"""The forward pass over candidates with rows in common, against the decoder's own."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralModel

from compress.attach.flops import FlopCount
from compress.labels import forward
from compress.labels.forward import BLOCK, Paths, check, outputs, past, product
from compress.models.loading import MLLM

FAMILIES = ["tiny", "tiny_next", "tiny_qwen"]
TOKENS = np.array([[3, 4, 7, 9], [3, 5, 7, 9], [3, 4, 8, 9], [3, 4, 7, 9]])


@pytest.fixture(params=FAMILIES)
def mllm(request: pytest.FixtureRequest) -> MLLM:
    found: MLLM = request.getfixturevalue(request.param)
    return found


def positions_of(mllm: MLLM, tokens: np.ndarray) -> np.ndarray:
    """Every token's own number; for M-RoPE on three axes, which differ after the first three tokens."""
    if not mllm.mrope:
        return tokens[None]
    return np.stack([np.where(tokens < 3, tokens, 3 + (tokens - 3) // step) for step in (1, 2, 3)])


@torch.no_grad()
def own(mllm: MLLM, embeds: Tensor, start: int, tokens: np.ndarray) -> Tensor:
    """Outputs [B, L, D] of the model's decoder, a whole sequence at a time."""
    found = []
    for candidate in tokens:
        rows = np.concatenate([np.arange(start), candidate])
        hidden = mllm.decoder(
            inputs_embeds=embeds[rows][None], use_cache=False,
            attention_mask=torch.ones(1, len(rows), dtype=torch.long),
            position_ids=torch.from_numpy(positions_of(mllm, rows[None])) if mllm.mrope
            else torch.from_numpy(rows[None]),
        ).last_hidden_state  # fmt: skip
        found.append(hidden[0, start:])
    return torch.stack(found)


def embeds_of(mllm: MLLM) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, mllm.decoder.config.hidden_size, generator=draw)


def test_what_candidates_begin_with_is_one_row() -> None:
    paths = Paths.parting(TOKENS, TOKENS[None])
    # 3 is shared by all; 3 4 by three, 3 4 7 9 by two, 3 5 7 9 by nobody
    assert len(paths.rows.unique()) == 1 + 2 + 3 + 3
    assert len(paths.first) == len(paths.token) == BLOCK
    assert torch.equal(paths.rows[0], paths.rows[3])
    assert len(paths.rows[:, 0].unique()) == 1 and len(paths.rows[:, 2].unique()) == 3
    assert torch.equal(paths.tokens[paths.token][paths.rows], torch.from_numpy(TOKENS))
    assert torch.equal(paths.positions[0][paths.rows], torch.from_numpy(TOKENS))
    assert paths.tokens.tolist() == [3, 4, 5, 7, 8, 9]
    assert torch.equal(paths.rows.flatten()[paths.first[:9]], torch.arange(9))


def test_paths_apart_have_no_row_in_common() -> None:
    paths = Paths.apart(torch.from_numpy(TOKENS), torch.from_numpy(TOKENS)[None])
    assert len(paths.first) == TOKENS.size and len(paths.rows.unique()) == TOKENS.size


def test_rows_in_common_are_computed_once(tiny: MLLM) -> None:
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(400, tiny.decoder.config.hidden_size, generator=draw)
    one = np.arange(BLOCK)[None]
    spent = {}
    for name, tokens in {
        "one": one,
        "alike": one.repeat(4, 0),
        "others": np.arange(4 * BLOCK).reshape(4, -1),
    }.items():
        asked = torch.full((len(tokens), 1), BLOCK - 1)
        with FlopCount() as flops:
            paths = Paths.parting(tokens, tokens[None])
            outputs(tiny.decoder, embeds, paths, asked, past(tiny.decoder, embeds[:0]))
        spent[name] = sum(found for kernel, found in flops.found.items() if "bmm" not in kernel)
    assert spent["alike"] == spent["one"]
    assert spent["others"] > 3 * spent["one"]


def test_double_precision_is_computed_too(tiny: MLLM) -> None:
    double = copy.copy(tiny)
    double.model = copy.deepcopy(tiny.model).double()
    embeds, asked = embeds_of(tiny), torch.tensor([[3]] * 4)
    paths = Paths.parting(TOKENS, TOKENS[None])
    found = outputs(double.decoder, embeds.double(), paths, asked, past(double.decoder, embeds[:2].double()))
    torch.testing.assert_close(found.float(), own(tiny, embeds, 2, TOKENS)[:, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", ["plain", "fused"])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_outputs_are_the_decoders_own(
    mllm: MLLM, shared: bool, start: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "fused":
        monkeypatch.setattr(forward, "SHORT", 0)
    embeds, positions = embeds_of(mllm), positions_of(mllm, TOKENS)
    if shared:
        paths = Paths.parting(TOKENS, positions)
    else:
        paths = Paths.apart(torch.from_numpy(TOKENS), torch.from_numpy(positions))
    asked = torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0]])
    found = outputs(mllm.decoder, embeds, paths, asked, past(mllm.decoder, embeds[:start]))
    expected = own(mllm, embeds, start, TOKENS)
    torch.testing.assert_close(found, expected[torch.arange(4)[:, None], asked], atol=2e-5, rtol=1e-5)


def test_one_layer_is_first_and_last(tiny: MLLM) -> None:
    shallow = copy.copy(tiny)
    shallow.model = copy.deepcopy(tiny.model)
    shallow.decoder.layers = shallow.decoder.layers[:1]
    shallow.decoder.config.num_hidden_layers = 1
    embeds, asked = embeds_of(tiny), torch.tensor([[3]] * 4)
    paths = Paths.parting(TOKENS, TOKENS[None])
    found = outputs(shallow.decoder, embeds, paths, asked, past(shallow.decoder, embeds[:2]))
    torch.testing.assert_close(found, own(shallow, embeds, 2, TOKENS)[:, 3:], atol=1e-5, rtol=1e-5)


def test_half_precision_is_that_of_the_decoder(tiny: MLLM) -> None:
    half = copy.copy(tiny)
    half.model = copy.deepcopy(tiny.model).bfloat16()
    embeds = embeds_of(tiny).bfloat16()
    paths, asked = Paths.parting(TOKENS, TOKENS[None]), torch.tensor([[3]] * 4)
    found = outputs(half.decoder, embeds, paths, asked, past(half.decoder, embeds[:2]))
    exact = own(tiny, embeds.float(), 2, TOKENS)[:, 3:]
    theirs = own(half, embeds, 2, TOKENS)[:, 3:]
    assert found.dtype == torch.bfloat16
    assert (found - exact).abs().mean() < 1.2 * (theirs - exact).abs().mean()


@pytest.mark.parametrize("kernel", ["oneDNN", "torch's"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_the_layers_and_the_same_bits_among_any_rows(
    bias: bool, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel != "oneDNN":
        monkeypatch.setattr(forward, "ONEDNN", None)
    draw = torch.Generator().manual_seed(0)
    layer = nn.Linear(96, 192, bias)
    rows, plus = torch.randn(300, 96, generator=draw), torch.randn(300, 192, generator=draw)
    with torch.inference_mode():
        whole, added = product(layer, rows), product(layer, rows, plus)
        torch.testing.assert_close(whole, layer(rows), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(added, layer(rows) + plus, atol=1e-5, rtol=1e-5)
        for count in (1, 2, 3, 15, 16, 17, 64, 100, 255):
            some = torch.randperm(300, generator=draw)[:count]
            assert torch.equal(product(layer, rows[some]), whole[some])
            assert torch.equal(product(layer, rows[some], plus[some]), added[some])


def test_other_layers_than_linear_ones_are_called() -> None:
    class Adapted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    layer, rows = Adapted(8, 8), torch.randn(20, 8)
    with torch.inference_mode():
        assert torch.equal(product(layer, rows, torch.ones(20, 8)), layer(rows) + 1)


def test_layers_that_look_back_over_less_than_a_sample_are_refused() -> None:
    config = MistralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=8, sliding_window=16,
    )  # fmt: skip
    plain = {"special_masks": False, "recurrent": lambda number: False, "layers": 1}
    mistral: Any = SimpleNamespace(decoder=MistralModel(config), **plain)
    check(mistral, 16)
    with pytest.raises(ValueError, match="back over 16, and a sample has 17"):
        check(mistral, 17)
