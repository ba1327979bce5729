"""What happens to one batch: the choice at every stage, the rows that go on, and what decoding must know
afterwards.

No hooks here: `attach` calls in from the model's layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compress.attention import cls_attention, decoder_rows, tower_keys
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
    kept: dict[
        int, list[int]
    ]  # depth -> untouched index of each token that went on, in order; -1 = the whole image
    merged: dict[int, list[bool]]  # depth -> which of them carry a new value


@dataclass
class Encoding:
    """One run of the vision tower over I images."""

    pixels: Tensor  # [I, ...]
    inputs: dict[int, Tensor] = field(
        default_factory=dict
    )  # of the tower layers that the method lists, [I, 1 + N, C]
    cls: Tensor | None = None  # [I, C] output features, for VISION
    features: Tensor | None = None  # [I, N, C], for VISION


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
        schedules: list[dict[int, int]],
    ):  # fmt: skip
        self.mllm, self.selector, self.positions = mllm, selector, positions
        self.ids, self.untouched = ids, layout  # [B, S]
        self.schedules = schedules  # per sample, depth -> visual tokens left
        self.encoding: Encoding | None = None
        self.kept: dict[int, dict[int, Tensor]] = {}  # depth -> sample -> untouched indices
        self.merged: dict[int, dict[int, Tensor]] = {}
        self.layers: list[tuple[Layout, Arguments]] = []  # what each decoder layer got
        self.aligned: list[Tensor] = []  # per sample, decoder input embeddings of the visual tokens
        self.text: list[Tensor] = []  # per sample, of the others
        self.previous: LayerInput | None = None  # of the layer before, where the next depth is a stage
        self.first: Tensor | None = None  # [B, 1] position of the first token
        self.decoded = 0
        self.shared: dict[Any, Arguments] = {}  # arguments of the current decoding step, by layout

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
            self.aligned = [rows[state.layout.visual(sample)] for sample, rows in enumerate(state.hidden)]
        if self.acts(number):
            state = self._shorten(number, state, given, self._stage(number, state, given))
        arguments = {**given, **state.arguments}
        self.previous = (state.hidden, *arguments["position_embeddings"]) if self.acts(number + 1) else None
        self.layers.append((state.layout, state.arguments))
        if len(self.layers) == self.mllm.layers:
            self.aligned, self.text, self.encoding = [], [], None  # nothing can be asked any more
        return state.hidden, arguments

    def next_step(self) -> None:
        """One more token is decoded."""
        self.decoded += 1
        self.shared = {}

    def decode(self, number: int, hidden: Tensor, given: Arguments) -> Arguments:
        """The arguments for decoder layer `number` in the current decoding step; hidden [B, 1, D]."""
        layout, changed = self.layers[number]
        if not changed:
            return given
        key = id(layout), hidden.device
        if key not in self.shared:
            arguments = self._masked(number, hidden, layout.mask(self.decoded), given)
            if self.positions == "compact":
                dropped = [
                    before - after for before, after in zip(self.untouched.sizes, layout.sizes, strict=True)
                ]
                ids = given["position_ids"] - torch.tensor(dropped, device=hidden.device)[:, None]
                arguments["position_embeddings"] = self.mllm.decoder.rotary_emb(hidden, position_ids=ids)
            self.shared[key] = arguments
        return {**given, **self.shared[key]}

    def record(self, sample: int) -> Record:
        """What became of one sample. ValueError for tokens chosen twice, or out of order without merging."""
        kept = {depth: chosen[sample].tolist() for depth, chosen in self.kept.items() if sample in chosen}
        merged = {depth: chosen[sample].tolist() for depth, chosen in self.merged.items() if sample in chosen}
        for depth, index in kept.items():
            places = [place for place in index if place >= 0]
            if len(set(places)) < len(places) or (not any(merged[depth]) and places != sorted(places)):
                raise ValueError(
                    f"select at depth {depth} returned {index}: unique indices, ascending unless merged"
                )
        tokens = len(self.untouched.index[sample])
        entering = [len(layout.index[sample]) for layout, _ in self.layers]
        return Record(tokens, self.untouched.sizes[sample] - tokens, entering, kept, merged)

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
            if VISION in self.schedules[sample]:
                view = View(
                    depth=VISION,
                    hidden=features,
                    visual=hidden.new_empty(0, hidden.shape[-1]),
                    text=self.text[sample],
                    index=index,
                    cls_token=None if encoding.cls is None else encoding.cls[image],
                    **self._signals(sample),
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
                attention=partial(
                    self._attention, sample, state.layout, {number - 1: self.previous, number: current}
                ),
                **self._signals(sample),
            )
            chosen[sample] = self._select(sample, view)
            self.aligned[sample] = self.aligned[sample][chosen[sample].index.clamp(min=0)]
        return chosen

    def _select(self, sample: int, view: View) -> Selection:
        """Let the method choose, check the form of its answer and note what goes on."""
        chosen = self.selector.select(view, self.schedules[sample][view.depth])
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
        self.kept.setdefault(view.depth, {})[sample] = origin(view.index, index)
        self.merged.setdefault(view.depth, {})[sample] = merged
        return Selection(index, tokens)

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

    def _signals(self, sample: int) -> Arguments:
        """The parts of a view that do not depend on the depth; callables compute when they are called."""
        return {
            "grid": self.mllm.grid,
            "before": self.untouched.before[sample],
            "cls": lambda layer: cls_attention(*self._tower_input(sample, layer)),
            "keys": lambda layer: tower_keys(*self._tower_input(sample, layer))[1:],
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

    def _tower_input(self, sample: int, layer: int) -> tuple[Any, Tensor]:
        image, encoding = self._image(sample)
        if layer not in encoding.inputs:
            listed = ", ".join(map(str, self.selector.tower_layers)) or "none"
            raise ValueError(
                f"tower layer {layer} was not recorded: the method's tower_layers lists {listed}"
            )
        return self.mllm.tower_layers[layer], encoding.inputs[layer][image]

    def _attention(
        self, sample: int, layout: Layout, inputs: dict[int, LayerInput | None], layer: int,
        rows: Sequence[int] | Tensor,
    ) -> Tensor:  # fmt: skip
        source = inputs.get(layer)
        if source is None:
            known = " and ".join(str(number) for number, each in inputs.items() if each is not None)
            raise ValueError(
                f"attention of decoder layer {layer} cannot be read at this depth, only of {known}"
            )
        start, run = layout.first(sample), layout.visual(sample)
        hidden, cos, sin = (each.expand(len(layout.index), -1, -1)[sample, start:] for each in source)
        asked = layout.text(sample)[torch.as_tensor(rows, device=layout.device)] - start
        weights = decoder_rows(self.mllm.decoder.layers[layer], hidden, cos, sin, asked)
        return weights[..., run.start - start : run.stop - start]

    def _seed(self, sample: int) -> int:
        image, encoding = self._image(sample)
        digest = hashlib.blake2b(digest_size=8)
        for part in (encoding.pixels[image], self.ids[sample, self.untouched.first(sample) :]):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return int.from_bytes(digest.digest(), "little")
