"""Weights of 4 bits, by hand and beside llama.cpp's own rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.edge.int4 import BLOCK, Int4Linear, dequantise, quantise, rounded
from bench.edge.runtimes.gguf import blocks, paired


def test_whole_numbers_up_to_the_extreme_are_exact():
    weight = torch.arange(-8.0, 8).repeat(2)[None]  # the extreme, -8, is level 0 at scale 1
    levels, scales = quantise(weight)
    assert scales.tolist() == [[1]]
    assert levels.flatten().tolist() == [*range(16)] * 2
    assert torch.equal(dequantise(levels, scales), weight)


def test_a_block_of_zeros_stays_zero():
    levels, scales = quantise(torch.zeros(2, 2 * BLOCK))
    assert torch.equal(dequantise(levels, scales), torch.zeros(2, 2 * BLOCK))


def test_each_block_has_its_own_scale():
    weight = torch.cat([torch.full((1, BLOCK), -8.0), torch.full((1, BLOCK), -80.0)], 1)
    assert quantise(weight)[1].tolist() == [[1, 10]]


def test_errors_are_at_most_a_step():
    weight = torch.randn(16, 4 * BLOCK, generator=torch.Generator().manual_seed(0))
    levels, scales = quantise(weight)
    error = (dequantise(levels, scales) - weight).abs().view(16, 4, BLOCK)
    assert (error <= 1.01 * scales.abs()[..., None]).all()


def test_widths_have_to_be_whole_blocks():
    with pytest.raises(ValueError, match="multiples of 32; this one is 40"):
        quantise(torch.zeros(4, 40))


def test_a_layer_multiplies_with_what_its_weights_stand_for():
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, BLOCK, generator=draw), torch.randn(3, BLOCK, generator=draw)
    expected = x @ dequantise(*quantise(weight)).T
    assert torch.allclose(Int4Linear(weight, 32)(x), expected, atol=1e-5)


def test_activations_of_8_bits_are_rounded_by_block():
    x = torch.cat([torch.linspace(-127, 127, BLOCK), torch.zeros(BLOCK)])[None]
    assert torch.equal(rounded(x), x.round())


def test_levels_are_llama_cpps():
    library = pytest.importorskip("gguf")
    weight = torch.randn(12, 4 * BLOCK, generator=torch.Generator().manual_seed(0))
    theirs = library.quants.quantize(weight.numpy(), library.GGMLQuantizationType.Q4_0)
    assert np.array_equal(blocks(*quantise(weight)), theirs)


def test_llama_cpp_pairs_neighbours_where_llama_pairs_halves():
    rows = torch.arange(8)[:, None]  # two heads of width 4: pairs (0, 2), (1, 3) and (4, 6), (5, 7)
    assert paired(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert paired(rows, 0) is rows
