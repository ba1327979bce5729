"""The float parts as modules of fixed shapes: vision tower with projector, and the compressor."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from bench.edge.precision import MASKED
from compress.compressor.network import Compressor
from compress.models.loading import MLLM


class FixedVision(nn.Module):
    """Pixels [1, 3, height, width] -> visual tokens [N, H] of a LLaVA-1.5, float32."""

    def __init__(self, mllm: MLLM):
        super().__init__()
        check_family(mllm)
        self.tower, self.projector = _float(mllm.tower), _float(mllm.projector)
        self.layer: int = mllm.model.config.vision_feature_layer

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        tokens: Tensor = self.projector(states[self.layer][:, 1:])[0]
        return tokens


class FixedCompressor(nn.Module):
    """A prompt [L, H] with a mask `present` [L] (1, or 0 for padding) -> logits [L], float32.

    Equal to `Compressor.forward` on one sample, padded at the end to a fixed length.
    """

    def __init__(self, compressor: Compressor):
        super().__init__()
        self.compressor = compressor

    def forward(self, rows: Tensor, present: Tensor) -> Tensor:
        network, x = self.compressor, rows[None]
        positions = torch.arange(x.shape[1])[None]
        mask = ((1 - present) * MASKED).expand(1, 1, x.shape[1], -1)
        angles = network.rotary(x, positions)
        out = x
        for layer in network.layers:
            out = layer(out, attention_mask=mask, position_embeddings=angles)
        logits: Tensor = network.head(network.norm(x + out))[0, :, 0]
        return logits


def check_family(mllm: MLLM) -> None:
    """ValueError for a model that does not resize all images to one size."""
    if mllm.model.config.model_type != "llava":
        raise ValueError(
            f"{mllm.name} is a {mllm.model.config.model_type!r} model: fixed shapes need images of one size, "
            f"as LLaVA-1.5 has them"
        )


def _float(part: Any) -> Any:
    """The part in float32; a copy if it has another dtype."""
    whole = all(weight.dtype == torch.float32 for weight in part.parameters())
    return part if whole else copy.deepcopy(part).float()
