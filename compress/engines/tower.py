"""Adapter of an engine's vision tower: the engine's modules under the names that transformers uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compress.attach.tower import Encoding, TowerInput, untouched
from compress.models.mllm import MLLM


class _Attention(nn.Module):
    is_causal = False

    def __init__(self, project: Callable[[Tensor], Tensor], config: Any):
        super().__init__()
        self.project, self.config = project, config
        self.heads = config.num_attention_heads
        self.scaling = (config.hidden_size // self.heads) ** -0.5

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        parts = self.project(hidden).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        kernel = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        found: Tensor = kernel(self, query, key, value, attention_mask, scaling=self.scaling)[0]
        return found


class EngineLayer(nn.Module):
    """The first half of an engine's tower layer: norm and attention.

    `norm` precedes the attention, and `project` returns queries, keys and values side by side [..., 3 C].
    """

    def __init__(self, norm: Callable[[Tensor], Tensor], project: Callable[[Tensor], Tensor], config: Any):
        super().__init__()
        self.norm, self.self_attn = norm, _Attention(project, config)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.self_attn(self.norm(hidden), attention_mask)
        return found


def lend(mllm: MLLM, parts: Mapping[str, nn.Module]) -> None:
    """Replace modules of an `outline` with the engine's modules, by their name in the model.

    The decoder's weights are removed. The model's own parameters become zeros on the device of the engine's
    modules; their values are not those of the trained model.
    """
    held: Any = mllm.model.model
    for name, module in parts.items():
        setattr(held, name, module)
    held.language_model = _without_weights(held.language_model)
    device = next(each.device for module in parts.values() for each in module.parameters())
    for name, parameter in list(held.named_parameters(recurse=False)):
        setattr(held, name, nn.Parameter(torch.zeros_like(parameter, device=device), requires_grad=False))


def named_tower(layers: Mapping[int, nn.Module], count: int) -> nn.Module:
    """Return a tower of `count` layers: the engine's `layers` by number, identities elsewhere."""
    tower = nn.Module()
    tower.encoder = nn.Module()
    tower.encoder.layers = nn.ModuleList([layers.get(number, nn.Identity()) for number in range(count)])
    return tower


def _without_weights(decoder: Any) -> nn.Module:
    """Return a module with the decoder's configuration and number of layers but no weights."""
    bare = nn.Module()
    bare.config = decoder.config
    bare.layers = nn.ModuleList([nn.Identity() for _ in decoder.layers])
    bare.norm = nn.Identity()
    return bare


@torch.no_grad()
def encode(
    tower: Callable[[Tensor], Tensor], layers: Mapping[int, Any], mllm: MLLM, read: Mapping[float, int],
    tiles: Tensor,
) -> Encoding:  # fmt: skip
    """Run an engine's tower over tiles [I, 3, h, w] and record the signals that methods read.

    `tower` returns features [I, 1 + N, C] with CLS first. `layers` are its modules by number. `read` maps
    each layer that a method names to its number.
    """
    inputs: dict[int, Tensor] = {}
    handles = [
        layers[number].register_forward_pre_hook(
            lambda module, args, kwargs, number=number: inputs.__setitem__(
                number, args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
        for number in set(read.values())
    ]
    try:
        features = tower(tiles)
    finally:
        for handle in handles:
            handle.remove()
    crowds = untouched(mllm.grid, mllm.grid, len(tiles), tiles.device)
    noted = {layer: TowerInput(inputs[number], crowds, ()) for layer, number in read.items()}
    return Encoding(list(tiles), noted, features[:, 0], features[:, 1:], None, ())
