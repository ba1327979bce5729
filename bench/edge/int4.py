"""Weights of 4 bits: blocks of 32 along the input, one scale each, sixteen levels around zero.

The rule is llama.cpp's Q4_0, and ONNX Runtime's MatMulNBits takes the same numbers in another order, so all
runtimes, and torch, compute with the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 32


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [N, K / 32, 32] uint8 (8 is zero) and scales [N, K / 32] float32 of a weight [N, K].

    The largest entry of a block in absolute value gets level 0, exactly except for the rounding of the scale
    to half.
    """
    rows, columns = weight.shape
    if columns % BLOCK:
        raise ValueError(f"int4 weights need widths that are multiples of {BLOCK}; this one is {columns}")
    blocks = weight.detach().float().view(rows, -1, BLOCK)
    extreme = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = extreme / -8
    inverse = torch.where(scale == 0, 0, 1 / scale)
    levels = (blocks * inverse + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    return levels, scale.squeeze(-1).half().float()


def dequantise(levels: Tensor, scales: Tensor) -> Tensor:
    """The weight [N, K], float32, from its levels and scales."""
    return ((levels.float() - 8) * scales[..., None]).flatten(1)


class Int4Linear(nn.Module):
    """A linear layer of int4 weights, without bias.

    In torch it multiplies with the dequantised weight; in an ONNX graph it is one MatMulNBits, whose
    activations are rounded to int8 (`activations=8`) or stay float.
    """

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, activations: int):
        super().__init__()
        levels, scales = quantise(weight)
        self.activations, (self.outputs, self.inputs) = activations, weight.shape
        self.register_buffer("packed", levels[..., ::2] | levels[..., 1::2] << 4)  # [N, K / 32, 16]
        self.register_buffer("scales", scales.flatten())

    @property
    def levels(self) -> Tensor:
        return torch.stack([self.packed & 15, self.packed >> 4], -1).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                "com.microsoft::MatMulNBits",
                [x, self.packed, self.scales],
                {
                    "K": self.inputs, "N": self.outputs, "bits": 4, "block_size": BLOCK,
                    "accuracy_level": 4 if self.activations == 8 else 0,
                },
                dtype=x.dtype, shape=(*x.shape[:-1], self.outputs), version=1,
            )  # fmt: skip
        if self.activations == 8:
            x = rounded(x)
        return F.linear(x, dequantise(self.levels, self.scales.view(self.outputs, -1)))


def rounded(x: Tensor) -> Tensor:
    """Activations [..., K] rounded to int8 as in CPU kernels: one scale for each block of 32."""
    blocks = x.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    levels = (blocks / scale.clamp(min=torch.finfo(x.dtype).tiny)).round()
    return (levels * scale).flatten(-2)
