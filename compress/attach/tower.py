"""The vision tower under a method: recorded layer inputs, and merging, layer by layer.

Images of a batch may keep different numbers of tokens; shorter ones are padded at the end, and no token
attends to the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from compress.attach.attention import Heads, tapped
from compress.attach.flops import FlopCount
from compress.base import Merge, Selector, TowerSelector, TowerView
from compress.models.loading import MLLM

Arguments = dict[str, Any]  # of a layer, by name
Modality = Literal["image", "video"]  # type of the input in one run of the tower


@dataclass(frozen=True)
class Crowd:
    """The tokens of one image, without CLS."""

    index: Tensor  # [N] the patch of the original image that each token is or represents
    size: Tensor  # [N] number of patches that each token represents
    carried: Tensor | None = None  # [N, ...] `Merge.carry` of the previous merging layer

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class TowerInput:
    """The input of one tower layer."""

    hidden: Tensor  # [I, 1 + N, C]; [M, C] for all images together in towers without CLS
    crowds: Sequence[Crowd]  # per image, the tokens in the rows after CLS
    rotary: tuple[Tensor, ...]  # the layer's rotary table, if it has one


@dataclass(frozen=True)
class Encoding:
    """One run of the vision tower over I images."""

    pixels: Sequence[Tensor]  # I tiles
    inputs: Mapping[float, TowerInput]  # of the tower layers that the method lists
    cls: Tensor | None  # [I, C] output features of CLS, for VISION
    features: Tensor | None  # [I, N, C], for VISION; shorter images end in padding
    crowds: Sequence[Crowd] | None  # per image, its remaining tokens, if the tower itself shortened it
    flops: Sequence[float]  # per image, of merging in the tower; empty if not counted
    last: Tensor | None = None  # [I, N, C] input of the pooling head, if there is one


class TowerMerging:
    """One run of the tower over I images under a method that merges.

    `plan` maps each merging layer to the number of tokens that leave it, without CLS; 0 = the method decides.
    `grid` is the patch grid of an original image, and `crowds` are the tokens that enter the tower.
    """

    def __init__(
        self, selector: TowerSelector, plan: Mapping[int, int], grid: tuple[int, int], crowds: list[Crowd]
    ):
        self.selector, self.plan, self.grid, self.crowds = selector, plan, grid, crowds

    def merge(self, layer: int, module: Any, inputs: Tensor, hidden: Tensor) -> Tensor:
        """[I, 1 + M, C] after merging `hidden` [I, 1 + N, C], the tokens of `layer` with input `inputs`."""
        merged, crowds = [], []
        for crowd, before, rows in zip(self.crowds, inputs, hidden, strict=True):
            tokens, after = self._merge(layer, module, crowd, before[: 1 + len(crowd)], rows)
            merged.append(tokens)
            crowds.append(after)
        self.crowds = crowds
        return pad_sequence(merged, batch_first=True)

    def bias(self, hidden: Tensor) -> Tensor | None:
        """Bias [I, 1, 1, 1 + N] of the attention logits of a layer with input [I, 1 + N, C], if needed."""
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
        left = sum(later > layer for later in self.plan)
        heads = cache(partial(tapped, module, before[None], attention_mask=None))
        view = TowerView(
            layer, hidden, size, index, self.grid, left=left, carried=crowd.carried,
            keys=lambda: heads().key.transpose(0, 1)[1:],
            values=lambda: heads().value.transpose(0, 1),
            cls=cache(lambda: cls_attention(heads())),
        )  # fmt: skip
        chosen = self.selector.merge(view, keep)
        tokens, sizes = join(chosen, hidden, size)
        free = self.selector.image_decides and left
        if len(tokens) < keep or keep and len(tokens) > keep and not free:
            name = type(self.selector).__name__
            raise ValueError(
                f"{name} merged into {len(tokens)} tokens at tower layer {layer}, asked for {keep}"
            )
        return torch.cat([cls, tokens]), Crowd(index[chosen.index], sizes, chosen.carry)


@dataclass
class _Run:
    """The state of a run of the tower."""

    pixels: Sequence[Tensor]
    crowds: list[Crowd]  # before any merging
    merging: TowerMerging | None
    inputs: dict[float, TowerInput] = field(default_factory=dict)
    flops: list[float] = field(default_factory=list)
    cls: Tensor | None = None
    features: Tensor | None = None
    last: Tensor | None = None
    layer_input: Tensor | None = None  # of the current layer
    attended: Tensor | None = None  # its merged tokens between attention and MLP, then after the MLP

    @property
    def tokens(self) -> list[Crowd]:
        return self.merging.crowds if self.merging else self.crowds


class TowerSession:
    """The vision tower of one model under one method: its hooks, and the encoding of its latest run.

    `left` is the number of visual tokens of an image that a method keeps at VISION; None for a method that
    does not act there. At VISION the tower's tokens are stored until the prompt is known, and the projector
    gets none of them. `generate` may run the tower before it calls the model.
    """

    def __init__(self, mllm: MLLM, selector: Selector, left: int | None, count_flops: bool):
        self.mllm, self.selector, self.count_flops = mllm, selector, count_flops
        self.chooses = left is not None
        self.read = {layer: mllm.tower_block(layer) for layer in selector.tower_layers}
        self.merger = selector if isinstance(selector, TowerSelector) else None
        self.resolution = mllm.grid
        self.plan: dict[int, int] = {}
        if left is not None and self.merger is not None:
            share = left / mllm.visual_tokens  # of every tile
            per_tile = round(share * mllm.tile_tokens)
            self.resolution = self.merger.resolution(mllm.grid, per_tile)
            self.plan = self.merger.tower(mllm.tile_tokens, per_tile, mllm.tower_depth)
        self.kind: Modality | None = None  # of the current input; None counts as images
        self._runs: dict[Modality, _Run] = {}  # the latest of each kind
        self._handles: list[Any] = []

    @property
    def merging_layers(self) -> list[Any]:
        """Tower layers whose output is shorter than their input."""
        return [self.mllm.tower_layers[number] for number in self.plan]

    @property
    def encoding(self) -> Encoding | None:
        """The encoding of the latest run over images; None if there was none since the last `forget`."""
        return self.encoding_of("image")

    def encoding_of(self, *kinds: Modality) -> Encoding | None:
        """The concatenated encodings of the latest runs over these kinds; None if one is missing."""
        runs = [self._runs[kind] for kind in kinds if kind in self._runs]
        if len(runs) < len(kinds) or not runs:
            return None
        encodings = [self._encoding(run) for run in runs]
        return encodings[0] if len(encodings) == 1 else _together(encodings)

    def _encoding(self, run: _Run) -> Encoding:
        shortened = run.features is not None and (self.plan or self.resolution != self.mllm.grid)
        crowds = tuple(run.tokens) if shortened else None
        return Encoding(
            run.pixels, dict(run.inputs), run.cls, run.features, crowds, tuple(run.flops), run.last
        )

    @property
    def _run(self) -> _Run | None:
        return self._runs.get(self.kind or "image")

    def forget(self) -> None:
        """Discard the encodings of a call that has ended."""
        self._runs = {}

    def hook(self) -> None:
        mllm, add = self.mllm, self._handles.append
        add(mllm.tower.register_forward_pre_hook(self._begin, with_kwargs=True))
        read = set(self.read.values())
        for number, module in enumerate(mllm.tower_layers):
            if number in read or self.plan:
                add(module.register_forward_pre_hook(partial(self._layer, number), with_kwargs=True))
            if number in self.plan and self.merger is not None:
                self._hook_merging(number, module, self.merger.merge_after)
        if self.chooses or mllm.pools:
            add(mllm.tower.register_forward_hook(self._end))
        if self.chooses:
            add(mllm.projector.register_forward_pre_hook(self._put_aside))
            add(mllm.projector.register_forward_hook(self._fill))

    def unhook(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook_merging(self, number: int, module: Any, after: str) -> None:
        """Register the hooks that merge in a tower layer: after the block, or between attention and MLP.

        In between, the MLP gets the merged tokens, its output is padded so that the block's residual sum
        works, and that sum is replaced. The hooks run first, so that recorded hidden states are the new ones.
        """
        add = self._handles.append
        if after == "block":
            add(module.register_forward_hook(partial(self._merge_block, number), prepend=True))
            return
        add(module.layer_norm2.register_forward_pre_hook(partial(self._merge_attended, number)))
        add(module.mlp.register_forward_pre_hook(partial(self._to_mlp, module.layer_norm2)))
        add(module.mlp.register_forward_hook(self._from_mlp))
        add(module.register_forward_hook(self._replace_sum, prepend=True))

    def _begin(self, module: nn.Module, args: tuple, kwargs: Arguments) -> tuple[tuple, Arguments]:
        tiles = self.mllm.tower_pixels(args, kwargs)
        crowds = untouched(self.mllm.grid, self.resolution, len(tiles), tiles[0].device)
        merging = TowerMerging(self.merger, self.plan, self.mllm.grid, crowds) if self.merger else None
        self._runs[self.kind or "image"] = _Run(tiles, crowds, merging)
        if self.resolution == self.mllm.grid:
            return args, kwargs
        pixels = torch.stack(list(tiles))
        (rows, columns), (height, width) = self.mllm.grid, pixels.shape[-2:]
        size = self.resolution[0] * height // rows, self.resolution[1] * width // columns
        small = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True, align_corners=False)
        return (), {**kwargs, "pixel_values": small.to(pixels), "interpolate_pos_encoding": True}

    def _layer(
        self, number: int, module: nn.Module, args: tuple, kwargs: Arguments
    ) -> tuple[tuple, Arguments] | None:
        run = self._run
        if run is None:
            return None
        hidden, *others = args or (kwargs["hidden_states"],)
        run.layer_input = hidden
        for layer, read in self.read.items():
            if read == number:
                run.inputs[layer] = TowerInput(
                    hidden, run.tokens, tuple(kwargs.get("position_embeddings") or ())
                )
        bias = run.merging.bias(hidden) if run.merging and self.plan else None
        if bias is None:
            return None
        return (hidden,), {**kwargs, "attention_mask": bias}

    def _merge_block(self, number: int, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return self._merge(number, output)

    def _merge_attended(self, number: int, module: nn.Module, args: tuple) -> None:
        if self._run is not None:
            self._run.attended = self._merge(number, args[0])

    def _to_mlp(self, norm: nn.Module, module: nn.Module, args: tuple) -> tuple[Tensor] | None:
        if self._run is None:
            return None
        return (norm.forward(self._run.attended),)

    def _from_mlp(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        run = self._run
        if run is None or run.attended is None or run.layer_input is None:
            return None
        run.attended = run.attended + output
        return F.pad(output, (0, 0, 0, run.layer_input.shape[1] - output.shape[1]))

    def _replace_sum(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        return self._run.attended if self._run is not None else None

    def _merge(self, number: int, hidden: Tensor) -> Tensor:
        run = self._run
        if run is None or run.merging is None or run.layer_input is None:
            return hidden
        with FlopCount() if self.count_flops else nullcontext() as counter:
            merged = run.merging.merge(number, self.mllm.tower_layers[number], run.layer_input, hidden)
        if counter is not None:
            share = counter.total / len(hidden)
            run.flops = [so_far + share for so_far in run.flops or [0.0] * len(hidden)]
        return merged

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._run is not None and self.mllm.pools:
            self._run.last = output.last_hidden_state
        if self._run is not None and self.chooses:
            self._run.cls = self.mllm.tower_cls(output)

    def _put_aside(self, module: nn.Module, args: tuple) -> tuple[Tensor]:
        if self._run is not None:
            self._run.features = args[0]
        return (args[0][:, :1],)  # one, not zero: kernels of quantised weights divide by the number of rows

    def _fill(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Fill every placeholder with NaN: the decoder never sees them, and any other use fails visibly."""
        return output.new_full((len(output), self.mllm.tile_tokens, output.shape[-1]), torch.nan)


def _together(encodings: Sequence[Encoding]) -> Encoding:
    """Join runs over images and over videos into one; it has no features from the tower's end."""
    inputs: dict[float, TowerInput] = {}
    for layer in encodings[0].inputs:
        parts = [encoding.inputs[layer] for encoding in encodings]
        rotary = zip(*(part.rotary for part in parts), strict=True)
        inputs[layer] = TowerInput(
            torch.cat([part.hidden for part in parts]),
            [crowd for part in parts for crowd in part.crowds],
            tuple(torch.cat(tables) for tables in rotary),
        )
    last = [one.last for one in encodings if one.last is not None]
    tiles = [tile for one in encodings for tile in one.pixels]
    return Encoding(tiles, inputs, None, None, None, (), torch.cat(last) if last else None)


def untouched(
    grid: tuple[int, int], resolution: tuple[int, int], images: int, device: torch.device
) -> list[Crowd]:
    """The tokens of I images before any merging."""
    patches = centres(grid, resolution, device)
    size = torch.full((len(patches),), grid[0] * grid[1] / len(patches), device=device)
    return [Crowd(patches, size)] * images


def centres(grid: tuple[int, int], smaller: tuple[int, int], device: torch.device) -> Tensor:
    """The patches of `grid` at the centre of each patch of a grid of equal or smaller size, row-major."""
    row, column = (
        (2 * torch.arange(few, device=device) + 1) * many // (2 * few)
        for many, few in zip(grid, smaller, strict=True)
    )
    return (row[:, None] * grid[1] + column).flatten()


def cls_attention(heads: Heads) -> Tensor:
    """Attention [H, N] of CLS, the first row, to the other rows, float32."""
    return heads.scores(slice(1))[:, 0].softmax(-1, dtype=torch.float32)[:, 1:]


def join(merge: Merge, values: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Means [K, C] of `values` [N, C] weighted by `size` [N], and the sums [K] of the sizes."""
    count = len(merge.index)
    into = merge.into % (count + 1)  # dropped tokens are summed in an extra last row

    def added(each: Tensor) -> Tensor:
        return each.new_zeros(count + 1, *each.shape[1:]).index_add(0, into, each)[:count]

    sizes, total = added(size), added(values.float() * size[:, None])
    # bincount would synchronise with the GPU to get its length.
    alone = added(torch.ones_like(into)) == 1
    # A token that no other token joined stays bit-identical.
    return torch.where(alone[:, None], values[merge.index], (total / sizes[:, None]).to(values)), sizes
