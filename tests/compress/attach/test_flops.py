from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.attach.flops import counting
from compress.labels.forward import BLOCK, product


def test_attention_counts_on_this_device_too():
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
    mask = torch.zeros(1, 1, 5, 9)
    with counting() as plain:
        F.scaled_dot_product_attention(query, key, value)
    with counting() as masked:
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expected = 2 * 2 * (2 * 4 * 5 * 9 * 8)  # scores and mixing, two per multiply-add
    assert plain.get_total_flops() == masked.get_total_flops() == expected


def test_products_count_and_sums_do_not():
    with counting() as count:
        (torch.ones(3, 4) @ torch.ones(4, 5) + 1).softmax(-1)
    assert count.get_total_flops() == 2 * 3 * 4 * 5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_linear_layers_of_candidates_count(bias: bool, adds: bool):
    plus = torch.ones(BLOCK, 5) if adds else None
    with torch.inference_mode(), counting() as count:
        product(nn.Linear(96, 5, bias), torch.ones(BLOCK, 96), plus)
    assert count.get_total_flops() == 2 * BLOCK * 96 * 5
