"""Merging inside the vision tower: which patches the tokens stand for, layer by layer.

No hooks here: `attach` calls in from the tower's layers. Images of a batch may keep different numbers of
tokens; shorter ones are padded at the end, and nothing attends to the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compress.attach.attention import tower_keys
from compress.base import Merge, Selector, TowerView


@dataclass(frozen=True)
class Crowd:
    """The tokens of one image, CLS aside."""

    index: Tensor  # [N] which patch of the untouched image each one is, or represents
    size: Tensor  # [N] how many patches it stands for

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class TowerInput:
    """The input of one tower layer."""

    hidden: Tensor  # [I, 1 + N, C]
    crowds: list[Crowd]  # per image, the patches that the rows after CLS are


@dataclass
class Encoding:
    """One run of the vision tower over I images."""

    pixels: Sequence[Tensor]  # I tiles
    inputs: dict[int, TowerInput] = field(default_factory=dict)  # of the tower layers that the method lists
    cls: Tensor | None = None  # [I, C] output features, for VISION
    features: Tensor | None = None  # [I, N, C], for VISION; shorter images end in padding
    crowds: list[Crowd] | None = None  # per image, what is left of it, where the tower itself shortened it
    flops: list[float] = field(default_factory=list)  # per image, that merging in the tower took


class TowerMerging:
    """One run of the tower over I images under a method that merges.

    `plan` gives the tokens that leave a layer, CLS aside; 0 = as the method decides. `resolution` is the grid
    of patches that the tower sees, `grid` that of the untouched image.
    """

    def __init__(
        self, selector: Selector, plan: Mapping[int, int], grid: tuple[int, int],
        resolution: tuple[int, int], images: int, device: torch.device,
    ):  # fmt: skip
        self.selector, self.plan, self.grid = selector, plan, grid
        patches = centres(grid, resolution, device)
        size = torch.full((len(patches),), grid[0] * grid[1] / len(patches), device=device)
        self.crowds = [Crowd(patches, size)] * images

    def merge(self, layer: int, module: Any, inputs: Tensor, hidden: Tensor) -> Tensor:
        """[I, 1 + M, C] after merging `hidden` [I, 1 + N, C], the tokens of `layer`, whose input is known."""
        merged, crowds = [], []
        for crowd, before, rows in zip(self.crowds, inputs, hidden, strict=True):
            tokens, after = self._merge(layer, module, crowd, before[: 1 + len(crowd)], rows)
            merged.append(tokens)
            crowds.append(after)
        self.crowds = crowds
        return pad_sequence(merged, batch_first=True)

    def bias(self, hidden: Tensor) -> Tensor | None:
        """What is added to the attention logits of a layer with input [I, 1 + N, C]: [I, 1, 1, 1 + N]."""
        length = hidden.shape[1]
        padded = any(1 + len(crowd) < length for crowd in self.crowds)
        if not padded and not self.selector.proportional:
            return None
        rows = []
        for crowd in self.crowds:
            size = crowd.size if self.selector.proportional else torch.ones_like(crowd.size)
            rows.append(torch.cat([size.new_ones(1), size]).log())
        bias = pad_sequence(rows, batch_first=True, padding_value=-torch.inf)
        return bias[:, None, None].to(hidden)

    def _merge(
        self, layer: int, module: Any, crowd: Crowd, before: Tensor, rows: Tensor
    ) -> tuple[Tensor, Crowd]:
        index, size = crowd.index, crowd.size
        cls, hidden = rows[:1], rows[1 : 1 + len(crowd)]
        keep = self.plan[layer]
        if keep >= len(crowd):
            return rows[: 1 + len(crowd)], crowd
        keys = partial(lambda: tower_keys(module, before)[1:])
        view = TowerView(layer, hidden, size, index, self.grid, keys)
        chosen = self.selector.merge(view, keep)
        tokens, sizes = join(chosen, hidden, size)
        if keep and len(tokens) != keep:
            name = type(self.selector).__name__
            raise ValueError(
                f"{name} merged into {len(tokens)} tokens at tower layer {layer}, asked for {keep}"
            )
        return torch.cat([cls, tokens]), Crowd(index[chosen.index], sizes)


def centres(grid: tuple[int, int], smaller: tuple[int, int], device: torch.device) -> Tensor:
    """The patches of `grid` in the middle of each patch of a grid that is no larger, row-major."""
    row, column = (
        (2 * torch.arange(few, device=device) + 1) * many // (2 * few)
        for many, few in zip(grid, smaller, strict=True)
    )
    return (row[:, None] * grid[1] + column).flatten()


def join(merge: Merge, values: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Means [K, C] of `values` [N, C] weighted by `size` [N], and the sizes' sums [K]."""
    sizes = size.new_zeros(len(merge.index)).index_add(0, merge.into, size)
    weighted = values.float() * size[:, None]
    total = weighted.new_zeros(len(merge.index), values.shape[1]).index_add(0, merge.into, weighted)
    # Not bincount, for whose length a GPU would be waited for.
    alone = torch.zeros_like(merge.index).index_add(0, merge.into, torch.ones_like(merge.into)) == 1
    # A token that nothing joined stays the same to the last bit.
    return torch.where(alone[:, None], values[merge.index], (total / sizes[:, None]).to(values)), sizes
