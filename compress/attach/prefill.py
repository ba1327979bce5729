"""Compression of one batch: the rows kept at every stage, and the state that decoding needs.

This module has no hooks: the hooks of `attach` call it from the model's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.attach.attention import window
from compress.attach.layout import Layout, Place
from compress.attach.selections import Selections
from compress.attach.signals import Inputs, LayerInput
from compress.attach.tower import Arguments
from compress.base import VISION, Positions, Selection, Selector
from compress.models.caches import cache_in
from compress.models.loading import MLLM, Picture


@dataclass(frozen=True)
class Record:
    """The result for one image or video in one prefill; a row without any has one record, of no tokens."""

    tokens: int  # visual tokens before compression
    text: int  # tokens of the prompt outside all images
    entering: list[int]  # visual tokens entering each decoder layer: the ledger
    cached: list[int]  # visual tokens in each layer's cache after the prefill; fewer if caches are cut
    kept: dict[int, list[int]]  # depth -> original indices of the kept tokens, in order; -1 = whole image
    merged: dict[int, list[bool]]  # depth -> whether each of them has a new value
    selection_flops: float | None  # of the method's own matrix products, two per multiply-add; if counted
    frames: int = 0  # of a video, as `View` counts them; 0 for an image


@dataclass(frozen=True)
class State:
    """The batch before one decoder layer."""

    hidden: Tensor  # [B, L, D]
    layout: Layout  # the same object as the original one while nothing was dropped


class Prefill:
    """One prefill of a batch under one method, and the decoding that follows it."""

    def __init__(
        self, mllm: MLLM, selector: Selector, positions: Positions, ids: Tensor, layout: Layout,
        pictures: dict[Place, Picture], schedules: dict[Place, dict[int, int]], count_flops: bool = False,
        embed: Callable[[Tensor], Tensor] | None = None, aside: bool = False,
    ):  # fmt: skip
        self.mllm, self.selector, self.positions = mllm, selector, positions
        self.ids, self.untouched = ids, layout  # [B, S]
        self.aside = aside  # whether the tower's tokens wait for a choice, and NaN stands in their place
        self.selections = Selections(
            mllm, selector, positions, ids, layout, pictures, schedules, count_flops, embed
        )
        self.layers: list[Layout] = []  # input of each decoder layer
        self.caches: list[Layout] = []  # prefill tokens in each layer's cache
        self.windows = [window(mllm.decoder, number) for number in range(mllm.layers)]
        self.previous: Callable[[], LayerInput] | None = None  # of the previous layer, if the next is a stage
        self.whole = False  # whether all stages are before the decoder, applied once for all layers
        self.first: Tensor | None = None  # [B, 1] position of the first token
        self.offsets: Tensor | None = None  # position offsets as defined by the family
        self.decoded = 0
        self.rows: dict[int, Tensor] = {}  # id of a layout -> original row of each of its rows [B, L]
        self.residuals: dict[Place, list[Tensor]] = {}  # [N, D] number i is added after decoder layer i
        self.shared: dict[Any, Any] = {}  # arguments of the current call, by layout

    def enter(self, number: int, hidden: Tensor, given: Arguments) -> tuple[Tensor, Arguments]:
        """The hidden states and arguments for decoder layer `number`, replacing those it was `given`."""
        layout = self.layers[-1] if number else self.untouched
        state = State(self._with_residuals(number - 1, hidden, layout), layout)
        state = self._stages(number, state, given)
        self.previous = (
            partial(self._input, number, state, given) if self.selections.act(number + 1) else None
        )
        self._went_on(state, 1)
        return state.hidden, {**given, **self._arguments(number, state, given)}

    def enter_all(self, given: Arguments) -> Arguments:
        """The decoder's own arguments, replacing those it was `given`, if all stages are at its input."""
        self.whole = True
        hidden, ids = given["inputs_embeds"], given.get("position_ids")
        if ids is None:
            ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
        state = self._stages(0, State(hidden, self.untouched), {**given, "position_ids": ids})
        self._went_on(state, self.mllm.layers)
        if state.layout is self.untouched:
            return given
        mask = state.layout.mask()
        if mask is None and cache_in(given) is None:
            # Positions with gaps would look like packed sequences.
            mask = torch.ones(state.hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        changed = {
            "inputs_embeds": state.hidden,
            "attention_mask": mask,
            "position_ids": self._ids(state, ids),
        }
        return {**given, **changed, **self._residuals_of(state.layout)}

    def take_residuals(self, given: Arguments) -> Arguments:
        """Store the features that are added to visual tokens between layers; the arguments without them.

        ValueError if features are added after the last layer.
        """
        names = self.mllm.residuals
        if names is None or given.get(names[1]) is None or not any(self.selections.schedules.values()):
            return given
        every = given[names[1]]
        if len(every) >= self.mllm.layers:
            raise ValueError(
                f"the tower of {self.mllm.name} adds to {len(every)} of {self.mllm.layers} decoder layers: "
                f"supported are fewer than all"
            )
        places = self.untouched.places
        counts = [len(self.untouched.tokens(place)) for place in places]
        parts = [tensor.split(counts) for tensor in every]
        self.residuals = {place: [part[at] for part in parts] for at, place in enumerate(places)}
        return {**given, **dict.fromkeys(names)}

    def _with_residuals(self, number: int, hidden: Tensor, layout: Layout) -> Tensor:
        """The output of decoder layer `number` plus the features added to its visual tokens."""
        added = {place: each[number] for place, each in self.residuals.items() if 0 <= number < len(each)}
        if not added:
            return hidden
        hidden = hidden.clone()
        for (sample, image), residual in added.items():
            rows = layout.visual((sample, image))
            hidden[sample, rows] = hidden[sample, rows] + residual.to(hidden)
        return hidden

    def _residuals_of(self, layout: Layout) -> Arguments:
        """Arguments that make the decoder add the stored features itself."""
        if not self.residuals or self.mllm.residuals is None:
            return {}
        where = torch.zeros(len(layout.sizes), layout.length, dtype=torch.bool, device=layout.device)
        for sample, image in layout.places:
            where[sample, layout.visual((sample, image))] = True
        ordered = [self.residuals[place] for place in layout.places]
        every = [torch.cat(parts) for parts in zip(*ordered, strict=True)]
        return dict(zip(self.mllm.residuals, (where, every), strict=True))

    def _arguments(self, number: int, state: State, given: Arguments) -> Arguments:
        """Replacements for the arguments of a decoder layer: the model's own, for the remaining rows.

        Masks of plainly causal layers are built anew, because tokens may have been reordered.
        """
        layout = state.layout
        if layout is self.untouched:
            return {}
        tables, mask = given["position_embeddings"], given.get("attention_mask")
        # The rotary table holds the positions; some kernels interpret ids with gaps as packed sequences.
        found: Arguments = {"position_ids": None}
        key: Any = "tables", id(layout), id(tables)
        if key not in self.shared:
            if self.positions == "compact":
                fit = self.mllm.rotary(state.hidden, self._ids(state, None), number)
            else:
                fit = gathered(tables, self.rows[id(layout)])
            self.shared[key] = tables, fit  # keeps the original alive, so that its id stays unique
        found["position_embeddings"] = self.shared[key][1]
        if self.mllm.special_masks:
            key = "mask", id(layout), id(mask)
            if key not in self.shared:
                fitting = None if mask is None else self._gathered_mask(mask, layout)
                self.shared[key] = mask, self._weighed(fitting, state.hidden, layout)
            return {**found, "attention_mask": self.shared[key][1]}
        key = "causal", id(layout), self.windows[number]
        if key not in self.shared:
            self.shared[key] = self._causal(number, state.hidden, layout, given)
        near = self._in_window(number, state.hidden, layout, layout, given)
        return {**found, "attention_mask": self.shared[key], **near}

    def _gathered_mask(self, mask: Tensor, layout: Layout) -> Tensor:
        """A mask [1 or B, H, S, S] of the original rows, gathered for the remaining rows."""
        rows = self.rows[id(layout)]
        at = rows.cummax(1).values
        found = _entries(mask, at[:, :, None], at[:, None])
        if self.selections.reordered:
            # A row moved behind a later one shares its place. Rows that share a place attend to each other in
            # both directions if the image's rows do, otherwise in their new order.
            low = torch.minimum(rows[:, :, None], rows[:, None])
            high = torch.maximum(rows[:, :, None], rows[:, None])
            high = (high + (low == high)).clamp(max=mask.shape[-1] - 1)  # whole-image token and first one
            shared = (at[:, :, None] == at[:, None]).triu(1)
            found = torch.where(shared[:, None], _entries(mask, low, high), found)
        real = layout.mask()
        if real is None:
            return found
        shut = ~real[:, None, None] & ~torch.eye(layout.length, dtype=torch.bool, device=at.device)
        if found.dtype == torch.bool:
            return found & ~shut
        return found.masked_fill(shut, torch.finfo(found.dtype).min)

    def _ids(self, state: State, given: Tensor | None) -> Tensor:
        """Position ids of the remaining rows, from `given` [..., 1 or B, S], or renumbered without gaps."""
        layout, device = state.layout, state.hidden.device
        if self.positions == "compact":
            assert self.first is not None
            count = torch.arange(layout.length, device=device) - layout.length
            return self.first + (count + _column(layout.sizes, device)).clamp(min=0)
        assert given is not None
        if layout is self.untouched:
            return given
        rows = self.rows[id(layout)]
        batch = torch.arange(len(rows), device=device)[:, None]
        return given.expand(*given.shape[:-2], len(rows), -1)[..., batch, rows]

    def _stages(self, number: int, state: State, given: Arguments) -> State:
        """The batch after the stages before decoder layer `number`."""
        if number == 0:
            if self.positions == "compact":
                self.first = self._position(state.layout, given)
            self.selections.signals.read_text(state.hidden)
            if self.selections.act(VISION) or self.aside and self.selections.signals.encoding is not None:
                state = self._shorten(state, self.selections.at_tower(state.hidden))
            self.selections.signals.read_visual(state.hidden, state.layout)
        if self.selections.act(number):
            inputs: Inputs = {number: partial(self._input, number, state, given)}
            if self.previous is not None:
                inputs = {number - 1: self.previous, **inputs}
            chosen = self.selections.at_layer(number, state.hidden, state.layout, inputs)
            state = self._shorten(state, chosen)
        return state

    def _went_on(self, state: State, layers: int) -> None:
        """Record the input layout of the next `layers` of the decoder."""
        self.layers += [state.layout] * layers
        self.caches += [state.layout] * layers
        if len(self.layers) == self.mllm.layers:
            self.selections.signals.close()

    def check(self) -> None:
        """RuntimeError unless every layer was reached, and every stage before the decoder took place."""
        left_out = self.selections.missed()
        if len(self.layers) != self.mllm.layers or left_out:
            raise RuntimeError(
                f"{type(self.selector).__name__} was asked at {len(self.layers)} of {self.mllm.layers} "
                f"decoder layers, and not at the tower for {len(left_out)} images: "
                f"the model runs without its hooks (was it compiled or exported?)"
            )

    def finish(self, given: Arguments) -> None:
        """Store the position offsets after the model's call with these arguments, and release tensors."""
        sizes = _column(self.untouched.sizes, self.ids.device)[:, 0]
        offsets = self.mllm.position_offsets(given, sizes)
        if offsets is not None:  # beams share the offset of their prompt
            offsets = offsets.repeat_interleave(len(self.ids) // len(offsets))
        self.offsets = offsets
        self.shared, self.rows, self.residuals = {}, {}, {}

    def of_rows(self, rows: list[int]) -> Prefill:
        """The prefill of a batch of these samples, in this order, for decoding."""
        if rows == list(range(len(self.untouched.sizes))):
            return self
        taken = {id(layout): layout.take(rows) for layout in (self.untouched, *self.layers, *self.caches)}
        other = copy(self)
        other.untouched = taken[id(self.untouched)]
        other.layers = [taken[id(layout)] for layout in self.layers]
        other.caches = [taken[id(layout)] for layout in self.caches]
        other.offsets = None if self.offsets is None else self.offsets[rows]
        return other

    def next_step(self, decoded: int) -> None:
        """Start a decoding step: set the number of cached tokens after the prefill."""
        self.decoded = decoded
        self.shared = {}

    def next_positions(self, decoded: int, count: int) -> Tensor:
        """Position ids of the next `count` tokens after the prefill and `decoded` tokens."""
        untouched = self.untouched
        return self.mllm.next_positions(untouched.sizes, untouched.length, decoded, count, self.offsets)

    def decode(self, number: int, hidden: Tensor, given: Arguments) -> Arguments:
        """The arguments for decoder layer `number` in the current decoding step; hidden [B, n, D]."""
        layout, cache = self.layers[number], self.caches[number]
        if layout is self.untouched and cache is layout:
            return given
        near = self._in_window(number, hidden, layout, cache, given)
        alike = not cache.padded and cache.size is None
        if self.positions == "original" and alike and hidden.shape[1] == 1:
            # The row attends to all tokens if the layer has no window.
            return {**given, "attention_mask": None, "position_ids": None, **near}
        key = id(layout), id(cache), self.windows[number], hidden.device  # windows hold fewer keys
        if key not in self.shared:
            mask = self._causal(number, hidden, cache, given)
            arguments = {"attention_mask": mask, "position_ids": None}
            if self.positions == "compact":
                ids = self._closed_up(layout, given["position_ids"])
                arguments["position_embeddings"] = self.mllm.rotary(hidden, ids, number)
            self.shared[key] = arguments
        return {**given, **self.shared[key], **near}

    def decode_all(self, given: Arguments) -> Arguments:
        """The decoder's own arguments in the current decoding step, after `enter_all`."""
        layout = self.layers[0]
        if layout is self.untouched:
            return given
        ids = given["position_ids"]
        if self.positions == "compact":
            ids = self._closed_up(layout, ids)
        return {**given, "attention_mask": layout.mask(self.decoded), "position_ids": ids}

    def _in_window(
        self, number: int, hidden: Tensor, layout: Layout, cache: Layout, given: Arguments
    ) -> Arguments:
        """The attention mask of a decoder layer with a sliding window; empty if all tokens are within it.

        A window counts positions in the original sequence, or in the layer's own sequence if positions are
        compact. `layout` is the layer's input, `cache` the part of it that its cache should hold.
        """
        sees = self.windows[number]
        if sees is None or sees >= self.untouched.length + self.decoded:
            return {}
        key = "window", id(layout), id(cache), sees, hidden.device
        if key not in self.shared:
            count, stored = hidden.shape[1], cache_in(given)
            columns = count  # number of keys: old ones may have left the cache
            if stored is not None:
                columns, _ = stored.get_mask_sizes(count, number)
            reference = self.untouched if self.positions == "original" else layout
            place = cache.rows_in(reference)
            after = reference.length + torch.arange(self.decoded, device=place.device)
            place = torch.cat([place, after.expand(len(place), -1)], 1)[:, -columns:]  # [B, K]
            order = torch.arange(columns, device=place.device)
            seen = (order <= order[-count:, None]) & (place[:, -count:, None] - place[:, None] < sees)
            padding = cache.mask(self.decoded)
            if padding is not None:
                seen = seen & padding[:, None, -columns:]
            mask = self._weighed(self.mllm.attention_mask(hidden, seen), hidden, cache)
            self.shared[key] = {"attention_mask": mask}
        return self.shared[key]

    def _closed_up(self, layout: Layout, ids: Tensor) -> Tensor:
        """Positions [B, 1] of the next token without gaps, from positions in the original sequence."""
        pairs = zip(self.untouched.sizes, layout.sizes, strict=True)
        return ids - _column([before - after for before, after in pairs], ids.device)

    def cut_caches(self, cache: Any, first: int) -> None:
        """Keep in the caches of decoder layers `first` and deeper only the tokens that passed all stages.

        Positions stay as each layer assigned them.
        """
        final, cut = self.layers[-1], {}
        for number in range(first, len(self.layers)):
            layout = self.caches[number]
            if layout is final:
                continue
            if id(layout) not in cut:
                kept = {
                    place: torch.isin(layout.tokens(place), final.tokens(place)).nonzero()[:, 0]
                    for place in layout.places
                }
                cut[id(layout)] = layout.shorten(kept)
            self.caches[number], rows = cut[id(layout)]
            layer = cache.layers[number]
            batch = torch.arange(len(rows), device=layer.keys.device)[:, None]
            where = rows.to(layer.keys.device)
            left = layout.length - layer.keys.shape[2]  # rows that are no longer in a sliding window
            if left:
                where = where - left
                held = max(1, int((where >= 0).sum(1).max()))
                where = where[:, -held:].clamp(min=0)
                layer.cumulative_length = where.shape[1]
            layer.keys = layer.keys[batch, :, where].transpose(1, 2).contiguous()
            layer.values = layer.values[batch, :, where].transpose(1, 2).contiguous()

    def records(self, sample: int) -> list[Record]:
        """The records of the images of one sample.

        ValueError for tokens chosen twice, or out of order without `reordered` or `tokens`.
        """
        places = [place for place in self.untouched.places if place[0] == sample]
        text = len(self.untouched.text(sample))
        nothing = [0] * len(self.layers)
        return [self._record(place, text) for place in places] or [
            Record(0, text, nothing, nothing, {}, {}, None if self.selections.flops is None else 0.0)
        ]

    def _record(self, place: Place, text: int) -> Record:
        kept, merged = self.selections.noted(place)
        flops, picture = self.selections.flops, self.selections.pictures[place]
        return Record(
            tokens=len(self.untouched.tokens(place)),
            text=text,
            entering=[len(layout.tokens(place)) for layout in self.layers],
            cached=[len(layout.tokens(place)) for layout in self.caches],
            kept=kept,
            merged=merged,
            selection_flops=None if flops is None else flops[place],
            frames=picture.tiles if picture.video else 0,
        )

    def _shorten(self, state: State, chosen: dict[Place, Selection]) -> State:
        """The batch with only the rows that are kept."""
        if not chosen:
            return state
        device = state.hidden.device
        after, rows = state.layout.shorten({place: selection.index for place, selection in chosen.items()})
        batch, rows = torch.arange(len(rows), device=device)[:, None], rows.to(device)
        hidden = state.hidden[batch, rows]
        for place, selection in chosen.items():
            if selection.tokens is not None:
                hidden[place[0], after.visual(place)] = selection.tokens.to(hidden)
            if place in self.residuals:
                self.residuals[place] = [_of_selection(selection, each) for each in self.residuals[place]]
        if self.selector.attends_by_size:
            for place, selection in chosen.items():
                if selection.into is not None:
                    after = state.layout.joined(place, selection.into, after)
        before = self.rows.get(id(state.layout))
        self.rows[id(after)] = rows if before is None else before[batch, rows]
        return State(hidden, after)

    def _input(self, number: int, state: State, given: Arguments) -> LayerInput:
        """The input of decoder layer `number` in this state."""
        if self.whole:
            ids = self._ids(state, given["position_ids"])
            if len(ids) == 4:  # text positions come first and do not rotate
                ids = ids[1:]
            return LayerInput(state.hidden, self.mllm.rotary(state.hidden, ids, number), None)
        now = {**given, **self._arguments(number, state, given)}
        mask = now.get("attention_mask") if self.mllm.special_masks else None
        return LayerInput(state.hidden, now["position_embeddings"], mask)

    def _causal(self, number: int, hidden: Tensor, layout: Layout, given: Arguments) -> Any:
        """The mask of a decoder layer whose cache holds `layout` of the prefill, for new rows [B, n, D]."""
        mask = self.mllm.causal_mask(hidden, layout.mask(self.decoded), cache_in(given), number)
        return self._weighed(mask, hidden, layout)

    def _weighed(self, mask: Any, hidden: Tensor, layout: Layout) -> Any:
        """An attention mask for new rows [B, n, D] plus the logarithm of the layout's row sizes.

        The result is added to the logits. Without sizes in the layout, the mask is returned unchanged.
        """
        if layout.size is None:
            return mask
        bias = F.pad(layout.size.log(), (0, self.decoded)).to(hidden)
        count, columns = hidden.shape[1], bias.shape[1] if mask is None else mask.shape[-1]
        if mask is None:
            mask = torch.ones(count, columns, dtype=torch.bool, device=hidden.device).tril(columns - count)
        if mask.dtype == torch.bool:
            hides = torch.finfo(hidden.dtype).min
            mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, hides)
        return mask + bias[:, None, None, -columns:]  # old keys may have left the cache

    def _position(self, layout: Layout, given: Arguments) -> Tensor:
        """Position [B, 1] of the first token of each sample."""
        ids: Tensor = given["position_ids"].expand(len(self.ids), -1)
        return ids.gather(1, _column([layout.length - size for size in layout.sizes], ids.device))


def _column(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Numbers as [B, 1]; equal ones are filled in on the device, others copied to it."""
    if len(set(numbers)) == 1:
        return torch.full((len(numbers), 1), numbers[0], device=device)
    return torch.tensor(numbers, device=device)[:, None]


def _entries(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Entries [B, H, L, L] of a mask [1 or B, H, S, S] at rows that broadcast to [B, L, L]."""
    batch = torch.arange(len(query), device=query.device)[:, None, None]
    return mask.expand(len(query), *mask.shape[1:])[batch, :, query, key].movedim(3, 1)


def gathered(tables: Any, rows: Tensor) -> Any:
    """The chosen rows [B, L] of rotary tables [1 or B, S, ...], nested as in the model."""
    if not isinstance(tables, Tensor):
        return tuple(gathered(each, rows) for each in tables)
    batch = torch.arange(len(rows), device=rows.device)[:, None]
    return tables.expand(len(rows), *tables.shape[1:])[batch, rows]


def _of_selection(selection: Selection, residual: Tensor) -> Tensor:
    """The residuals [K, D] of the selected tokens, from those of the view's tokens [N, D].

    If the method gives `into`, a merged token gets the mean over the tokens that joined it, otherwise the
    residual of its representative. A token of the whole image gets the mean of all.
    """
    index = selection.index
    found = residual[index.clamp(min=0)]
    if selection.into is not None:
        into = selection.into.to(index.device)
        weight = torch.zeros(len(index), len(residual), dtype=residual.dtype, device=residual.device)
        joined = (into >= 0).nonzero()[:, 0]
        weight[into[joined], joined] = 1
        counts = weight.sum(1, keepdim=True)
        found = torch.where(counts > 1, (weight @ residual) / counts.clamp(min=1), found)
    whole = residual.mean(0, dtype=torch.float32).to(residual)
    return torch.where((index < 0)[:, None], whole, found)
