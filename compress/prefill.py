"""What happens to one batch: the choice at every stage, the rows that go on, and what decoding must know
afterwards.

No hooks here: `attach` calls in from the model's layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compress.attention import cls_scores, decoder_keys, decoder_rows, tower_keys
from compress.base import VISION, Positions, Selection, Selector, View
from compress.layout import Layout, origin
from compress.models import MLLM

Arguments = dict[str, Any]  # of a decoder layer, by name
LayerInput = tuple[Tensor, Tensor, Tensor]  # hidden [B, L, D]; cos, sin [1 or B, L, d]


@dataclass(frozen=True)
class Record:
    """What happened to one batch row in one prefill."""

    tokens: int  # visual tokens before compression
    text: int  # other prompt tokens
    entering: list[int]  # visual tokens entering each decoder layer: the ledger
    cached: list[
        int
    ]  # visual tokens in each layer's cache after the prefill; `entering` unless caches are cut
    kept: dict[
        int, list[int]
    ]  # depth -> untouched index of each token that went on, in order; -1 = the whole image
    merged: dict[int, list[bool]]  # depth -> which of them carry a new value
    selection_flops: float | None  # of the method's own matrix products, two per multiply-add; if asked for


@dataclass(frozen=True)
class TowerInput:
    """The input of one tower layer."""

    hidden: Tensor  # [I, 1 + N, C]
    index: list[Tensor]  # [N] per image, the patch that each row after CLS is


@dataclass
class Encoding:
    """One run of the vision tower over I images."""

    pixels: Tensor  # [I, ...]
    inputs: dict[int, TowerInput] = field(default_factory=dict)  # of the tower layers that the method lists
    cls: Tensor | None = None  # [I, C] output features, for VISION
    features: Tensor | None = None  # [I, N, C], for VISION; shorter images end in padding
    index: list[Tensor] | None = None  # [N] per image, its patches, where the tower itself shortened them
    merged: list[Tensor] | None = None  # [N] per image, which of them carry a new value, there
    flops: list[float] = field(default_factory=list)  # per image, that merging in the tower took


@dataclass
class State:
    """The batch before one decoder layer, and what replaces the model's own arguments."""

    hidden: Tensor  # [B, L, D]
    layout: Layout
    arguments: Arguments  # empty while nothing was dropped


class Prefill:
    """One prefill of a batch under one method, and the decoding that follows it."""

    def __init__(
        self, mllm: MLLM, selector: Selector, positions: Positions, ids: Tensor, layout: Layout,
        schedules: list[dict[int, int]], count_flops: bool = False,
    ):  # fmt: skip
        self.mllm, self.selector, self.positions = mllm, selector, positions
        self.ids, self.untouched = ids, layout  # [B, S]
        self.schedules = schedules  # per sample, depth -> visual tokens left
        self.encoding: Encoding | None = None
        self.kept: dict[int, dict[int, Tensor]] = {}  # depth -> sample -> untouched indices
        self.merged: dict[int, dict[int, Tensor]] = {}
        self.chosen: dict[int, dict[int, Tensor]] = {}  # rows of the view; sorted if their order was free
        self.layers: list[tuple[Layout, Arguments]] = []  # what each decoder layer got
        self.caches: list[Layout] = []  # what each layer's cache holds of the prefill
        self.entered: list[Tensor] = []  # per sample, embeddings of the visual tokens that left the tower
        self.aligned: list[Tensor] = []  # of those that are left
        self.text: list[Tensor] = []  # per sample, of the others
        self.previous: LayerInput | None = None  # of the layer before, where the next depth is a stage
        self.first: Tensor | None = None  # [B, 1] position of the first token
        self.decoded = 0
        self.shared: dict[Any, Arguments] = {}  # arguments of the current decoding step, by layout
        self.flops: list[float] | None = [0.0] * len(ids) if count_flops else None  # per sample

    def acts(self, depth: int) -> bool:
        return any(depth in schedule for schedule in self.schedules)

    def enter(self, number: int, hidden: Tensor, given: Arguments) -> tuple[Tensor, Arguments]:
        """The hidden states and arguments for decoder layer `number` in place of those it was `given`."""
        layout, arguments = self.layers[-1] if number else (self.untouched, {})
        state = State(hidden, layout, arguments)
        if number == 0:
            self.first = self._position(layout, given)
            self.text = [rows[layout.text(sample)] for sample, rows in enumerate(hidden)]
            if self.acts(VISION):
                state = self._shorten(0, state, given, self._vision(hidden))
            self.entered = [rows[state.layout.visual(sample)] for sample, rows in enumerate(state.hidden)]
            self.aligned = list(self.entered)
        if self.acts(number):
            state = self._shorten(number, state, given, self._stage(number, state, given))
        arguments = {**given, **state.arguments}
        self.previous = (state.hidden, *arguments["position_embeddings"]) if self.acts(number + 1) else None
        self.layers.append((state.layout, state.arguments))
        self.caches.append(state.layout)
        if len(self.layers) == self.mllm.layers:
            self.aligned, self.entered, self.text = [], [], []  # nothing can be asked any more
            self.encoding = None
        return state.hidden, arguments

    def next_step(self) -> None:
        """One more token is decoded."""
        self.decoded += 1
        self.shared = {}

    def decode(self, number: int, hidden: Tensor, given: Arguments) -> Arguments:
        """The arguments for decoder layer `number` in the current decoding step; hidden [B, 1, D]."""
        (layout, changed), cache = self.layers[number], self.caches[number]
        if not changed and cache is layout:
            return given
        key = id(layout), id(cache), hidden.device
        if key not in self.shared:
            arguments = self._masked(number, hidden, cache.mask(self.decoded), given)
            if self.positions == "compact":
                dropped = [
                    before - after for before, after in zip(self.untouched.sizes, layout.sizes, strict=True)
                ]
                ids = given["position_ids"] - torch.tensor(dropped, device=hidden.device)[:, None]
                arguments["position_embeddings"] = self.mllm.decoder.rotary_emb(hidden, position_ids=ids)
            self.shared[key] = arguments
        return {**given, **self.shared[key]}

    def cut_caches(self, cache: Any, first: int) -> None:
        """Leave in the caches of decoder layers `first` and deeper only the tokens that passed all stages.

        Positions stay as each layer counted them.
        """
        final, cut = self.layers[-1][0], {}
        for number in range(first, len(self.layers)):
            layout = self.caches[number]
            if layout is final:
                continue
            if id(layout) not in cut:
                kept = {
                    sample: torch.isin(index, final.index[sample]).nonzero()[:, 0]
                    for sample, index in enumerate(layout.index)
                    if len(index)
                }
                cut[id(layout)] = layout.shorten(kept)
            self.caches[number], rows = cut[id(layout)]
            layer = cache.layers[number]
            batch = torch.arange(len(rows), device=layer.keys.device)[:, None]
            where = rows.to(layer.keys.device)
            layer.keys = layer.keys[batch, :, where].transpose(1, 2).contiguous()
            layer.values = layer.values[batch, :, where].transpose(1, 2).contiguous()

    def record(self, sample: int) -> Record:
        """What became of one sample. ValueError for tokens chosen twice, or out of order without values."""
        for depth, chosen in self.chosen.items():
            rows = chosen[sample].tolist() if sample in chosen else []
            if any(later <= row and later >= 0 for row, later in pairwise(rows)):
                raise ValueError(
                    f"select at depth {depth} returned rows {rows}: unique, ascending unless tokens are given"
                )
        kept = {depth: chosen[sample].tolist() for depth, chosen in self.kept.items() if sample in chosen}
        merged = {depth: chosen[sample].tolist() for depth, chosen in self.merged.items() if sample in chosen}
        tokens = len(self.untouched.index[sample])
        return Record(
            tokens=tokens,
            text=self.untouched.sizes[sample] - tokens,
            entering=[len(layout.index[sample]) for layout, _ in self.layers],
            cached=[len(layout.index[sample]) for layout in self.caches],
            kept=kept,
            merged=merged,
            selection_flops=None if self.flops is None else self.flops[sample],
        )

    # The stages ---------------------------------------------------------------------------------------------

    def _vision(self, hidden: Tensor) -> dict[int, Selection]:
        """What goes on from the tower, per sample, already projected."""
        chosen = {}
        for sample, index in enumerate(self.untouched.index):
            if not len(index):
                continue
            image, encoding = self._image(sample)
            assert encoding.features is not None
            features = encoding.features[image]
            at, tokens = index, features
            if VISION in self.schedules[sample] and encoding.index and encoding.merged:
                at = encoding.index[image].to(index)  # the tower itself has done it
                tokens = features[: len(at)]
                self._note(sample, VISION, at, encoding.merged[image])
                if self.flops is not None and encoding.flops:
                    self.flops[sample] += encoding.flops[image]
            elif VISION in self.schedules[sample]:
                view = View(
                    depth=VISION,
                    hidden=features,
                    visual=hidden.new_empty(0, hidden.shape[-1]),
                    text=self.text[sample],
                    index=index,
                    cls_token=None if encoding.cls is None else encoding.cls[image],
                    **self._signals(sample, index),
                )
                selection = self._select(sample, view)
                at = selection.index
                tokens = features[at] if selection.tokens is None else selection.tokens
            projected = self.mllm.projector.forward(
                tokens
            )  # not called as a module: its hooks put tokens aside
            chosen[sample] = Selection(at, projected)
        return chosen

    def _stage(self, number: int, state: State, given: Arguments) -> dict[int, Selection]:
        """What goes on from decoder layer `number`, for the samples that keep less from there on."""
        chosen = {}
        current = (state.hidden, *{**given, **state.arguments}["position_embeddings"])
        for sample, index in enumerate(state.layout.index):
            if self.schedules[sample].get(number, len(index)) >= len(index):
                continue
            view = View(
                depth=number,
                hidden=state.hidden[sample, state.layout.visual(sample)],
                visual=self.aligned[sample],
                text=self.text[sample],
                index=index,
                inputs=self.entered[sample],
                context=state.hidden[sample, state.layout.text(sample)],
                attention=partial(
                    self._attention, sample, state.layout, {number - 1: self.previous, number: current}
                ),
                decoder_keys=partial(
                    self._decoder_keys, sample, state.layout, {number - 1: self.previous, number: current}
                ),
                norm=self.mllm.decoder.norm,
                **self._signals(sample, index),
            )
            chosen[sample] = self._select(sample, view)
            self.aligned[sample] = self.aligned[sample][chosen[sample].index.clamp(min=0)]
        return chosen

    def _select(self, sample: int, view: View) -> Selection:
        """Let the method choose, check the form of its answer and note what goes on."""
        with FlopCounterMode(display=False) if self.flops is not None else nullcontext() as counter:
            chosen = self.selector.select(view, self.schedules[sample][view.depth])
        if self.flops is not None and counter is not None:
            self.flops[sample] += counter.get_total_flops()
        index, tokens = chosen.index.to(view.hidden.device), chosen.tokens
        if index.ndim != 1 or index.dtype != torch.long or not 1 <= len(index) <= len(view.hidden):
            raise ValueError(
                f"select returned index {tuple(index.shape)} {index.dtype}: give 1 to N int64 rows"
            )
        if tokens is not None and tokens.shape != (len(index), view.hidden.shape[1]):
            raise ValueError(
                f"select returned {len(index)} indices and tokens {tuple(tokens.shape)}: give [K, C]"
            )
        merged = index < 0
        if tokens is not None:
            merged = merged | (tokens != view.hidden[index.clamp(min=0)]).any(1)
        rows = index if tokens is None else index.sort().values
        self.chosen.setdefault(view.depth, {})[sample] = rows
        self._note(sample, view.depth, origin(view.index, index), merged)
        return Selection(index, tokens)

    def _note(self, sample: int, depth: int, index: Tensor, merged: Tensor) -> None:
        self.kept.setdefault(depth, {})[sample] = index
        self.merged.setdefault(depth, {})[sample] = merged

    def _shorten(self, number: int, state: State, given: Arguments, chosen: dict[int, Selection]) -> State:
        """Gather the rows that go on from decoder layer `number`, and make the arguments that fit them."""
        if not chosen:
            return state
        device = state.hidden.device
        after, rows = state.layout.shorten({sample: selection.index for sample, selection in chosen.items()})
        batch, rows = torch.arange(len(rows), device=device)[:, None], rows.to(device)
        hidden = state.hidden[batch, rows]
        for sample, selection in chosen.items():
            if selection.tokens is not None:
                hidden[sample, after.visual(sample)] = selection.tokens.to(hidden)
        arguments = self._masked(number, hidden, after.mask(), given)
        if self.positions == "compact":
            assert self.first is not None
            count = torch.arange(after.length, device=device) - after.length
            ids = self.first + (count + torch.tensor(after.sizes, device=device)[:, None]).clamp(min=0)
            arguments["position_embeddings"] = self.mllm.decoder.rotary_emb(hidden, position_ids=ids)
        else:
            tables = {**given, **state.arguments}["position_embeddings"]
            arguments["position_embeddings"] = tuple(
                each.expand(len(rows), -1, -1)[batch, rows] for each in tables
            )
        return State(hidden, after, arguments)

    def _masked(self, number: int, hidden: Tensor, mask: Tensor | None, given: Arguments) -> Arguments:
        causal = self.mllm.causal_mask(hidden, mask, given.get("past_key_values"), number)
        # The rotary table carries the positions; ids with holes look like packed sequences to some kernels.
        return {"attention_mask": causal, "position_ids": None}

    def _position(self, layout: Layout, given: Arguments) -> Tensor:
        """Position [B, 1] of the first token of each sample."""
        ids = given["position_ids"].expand(len(self.ids), -1)
        return ids.gather(
            1, torch.tensor([[layout.length - size] for size in layout.sizes], device=ids.device)
        )

    # What methods may ask -----------------------------------------------------------------------------------

    def _signals(self, sample: int, index: Tensor) -> Arguments:
        """The parts of a view that all depths have; callables compute when they are called."""

        def scores(layer: int) -> tuple[Tensor, Tensor]:
            module, hidden, rows = self._tower_input(sample, layer, index)
            return cls_scores(module, hidden), rows

        def attention(layer: int) -> Tensor:
            whole, rows = scores(layer)
            return whole.softmax(-1, dtype=torch.float32)[:, rows]

        def with_itself(layer: int) -> Tensor:
            whole, rows = scores(layer)
            return torch.cat([whole[:, :1], whole[:, rows]], 1)

        def keys(layer: int) -> Tensor:
            module, hidden, rows = self._tower_input(sample, layer, index)
            return tower_keys(module, hidden)[rows]

        return {
            "grid": self.mllm.grid,
            "before": self.untouched.before[sample],
            "cls": attention,
            "scores": with_itself,
            "keys": keys,
            "seed": partial(self._seed, sample),
        }

    def _image(self, sample: int) -> tuple[int, Encoding]:
        """Which image of the tower's run belongs to a sample; beams of one prompt share theirs."""
        holders = [number for number, index in enumerate(self.untouched.index) if len(index)]
        if self.encoding is None or len(holders) % len(self.encoding.pixels):
            name = type(self.selector).__name__
            raise ValueError(
                f"{name} reads the image: give pixel_values, one image per sample, not its features"
            )
        return holders.index(sample) * len(self.encoding.pixels) // len(holders), self.encoding

    def _tower_input(self, sample: int, layer: int, index: Tensor) -> tuple[Any, Tensor, Tensor]:
        """A tower layer, its input [1 + M, C], and the rows in it [N] of the tokens of a view."""
        image, encoding = self._image(sample)
        if layer not in encoding.inputs:
            listed = ", ".join(map(str, self.selector.tower_layers)) or "none"
            raise ValueError(
                f"tower layer {layer} was not recorded: the method's tower_layers lists {listed}"
            )
        given = encoding.inputs[layer]
        there = given.index[image].to(index)
        place = index.new_zeros(self.mllm.visual_tokens)  # row 0 is CLS
        place[there] = torch.arange(1, len(there) + 1, device=index.device)
        rows = torch.where(index < 0, 0, place[index.clamp(min=0)])
        return self.mllm.tower_layers[layer], given.hidden[image, : 1 + len(there)], rows

    def _attention(
        self, sample: int, layout: Layout, inputs: dict[int, LayerInput | None], layer: int,
        rows: Sequence[int] | Tensor,
    ) -> Tensor:  # fmt: skip
        hidden, cos, sin = self._decoder_input(sample, layout, inputs, layer)
        start, run = layout.first(sample), layout.visual(sample)
        asked = layout.text(sample)[torch.as_tensor(rows, device=layout.device)] - start
        weights = decoder_rows(self.mllm.decoder.layers[layer], hidden, cos, sin, asked)
        return weights[..., run.start - start : run.stop - start]

    def _decoder_keys(
        self, sample: int, layout: Layout, inputs: dict[int, LayerInput | None], layer: int
    ) -> tuple[Tensor, Tensor]:
        hidden, cos, sin = self._decoder_input(sample, layout, inputs, layer)
        keys = decoder_keys(self.mllm.decoder.layers[layer], hidden, cos, sin).transpose(0, 1)
        start, run = layout.first(sample), layout.visual(sample)
        return keys[run.start - start : run.stop - start], keys[layout.text(sample) - start]

    @staticmethod
    def _decoder_input(
        sample: int, layout: Layout, inputs: dict[int, LayerInput | None], layer: int
    ) -> LayerInput:
        """One sample's input of a decoder layer, without padding: [L, D], [L, d] and [L, d]."""
        source = inputs.get(layer)
        if source is None:
            known = " and ".join(str(number) for number, each in inputs.items() if each is not None)
            raise ValueError(f"decoder layer {layer} cannot be read at this depth, only {known}")
        hidden, cos, sin = (
            each.expand(len(layout.index), -1, -1)[sample, layout.first(sample) :] for each in source
        )
        return hidden, cos, sin

    def _seed(self, sample: int) -> int:
        image, encoding = self._image(sample)
        digest = hashlib.blake2b(digest_size=8)
        for part in (encoding.pixels[image], self.ids[sample, self.untouched.first(sample) :]):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return int.from_bytes(digest.digest(), "little")
