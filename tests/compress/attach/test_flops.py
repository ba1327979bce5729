from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from compress.attach.flops import FlopCount
from compress.labels.forward import BLOCK, product


def test_attention_counts_on_this_device_too():
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
    mask = torch.zeros(1, 1, 5, 9)
    with FlopCount() as plain:
        F.scaled_dot_product_attention(query, key, value)
    with FlopCount() as masked:
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expected = 2 * 2 * (2 * 4 * 5 * 9 * 8)  # scores and mixing, two per multiply-add
    assert plain.total == masked.total == expected


def test_products_count_and_sums_do_not():
    with FlopCount() as count:
        (torch.ones(3, 4) @ torch.ones(4, 5) + 1).softmax(-1)
    assert count.total == 2 * 3 * 4 * 5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_linear_layers_of_candidates_count(bias: bool, adds: bool):
    plus = torch.ones(BLOCK, 5) if adds else None
    with torch.inference_mode(), FlopCount() as count:
        product(nn.Linear(96, 5, bias), torch.ones(BLOCK, 96), plus)
    assert count.total == 2 * BLOCK * 96 * 5


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_count_is_that_of_torch(mode: Callable[[], AbstractContextManager[None]]):
    """Also of operators that are made of others, which only inference mode shows as a whole."""
    one = torch.randn(2, 6, 8)
    layer, fold = nn.Linear(8, 4), nn.Conv2d(2, 3, 2)

    def work() -> None:
        torch.einsum("bnd,bmd->bnm", one, one).matmul(one)
        layer(one)
        fold(one)
        F.scaled_dot_product_attention(one, one, one)
        one[0] @ one[0, 0]

    with mode():
        with FlopCounterMode(display=False) as expected:
            work()
        with FlopCount() as count:
            work()
    ours = ("for_cpu", "mkldnn")  # kernels that torch does not know
    seen = sum(each for name, each in count.found.items() if not any(one in name for one in ours))
    assert seen == expected.get_total_flops() > 0
