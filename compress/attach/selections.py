"""The selections of one prefill: the tokens that the method keeps of every image at each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compress.attach.flops import FlopCount
from compress.attach.layout import Layout, Place, origin
from compress.attach.signals import Inputs, Signals
from compress.attach.tower import Crowd
from compress.base import VISION, Positions, Selection, Selector, View
from compress.models.loading import MLLM, Picture


class Selections:
    """Calls the method at every stage, checks its results and records the kept tokens.

    `schedules` maps each image to its schedule: the number of visual tokens from each depth on. `embed` maps
    token ids [M] to the decoder's embeddings [M, D]. Default: `MLLM.embed_ids`.
    """

    def __init__(
        self, mllm: MLLM, selector: Selector, positions: Positions, ids: Tensor, layout: Layout,
        pictures: dict[Place, Picture], schedules: dict[Place, dict[int, int]], count_flops: bool = False,
        embed: Callable[[Tensor], Tensor] | None = None,
    ):  # fmt: skip
        self.mllm, self.selector = mllm, selector
        self.untouched, self.pictures, self.schedules = layout, pictures, schedules
        self.signals = Signals(mllm, selector, positions, ids, layout, pictures, embed)
        self.kept: dict[int, dict[Place, Tensor]] = {}  # depth -> original indices
        self.merged: dict[int, dict[Place, Tensor]] = {}
        self.chosen: dict[int, dict[Place, Tensor]] = {}  # rows of the view; sorted if any order is allowed
        self.reordered = False  # whether tokens may be in another order than in the prompt
        self.flops: dict[Place, float] | None = dict.fromkeys(pictures, 0.0) if count_flops else None

    def act(self, depth: int) -> bool:
        """Whether any image has a stage at this depth."""
        return any(depth in schedule for schedule in self.schedules.values())

    def missed(self) -> list[Place]:
        """Images whose stage before the decoder did not take place."""
        done = self.kept.get(VISION, {})
        return [
            place for place, schedule in self.schedules.items() if VISION in schedule and place not in done
        ]

    def noted(self, place: Place) -> tuple[dict[int, list[int]], dict[int, list[bool]]]:
        """By depth, the original indices of an image's kept tokens, and flags for the merged ones.

        ValueError for tokens chosen twice, or out of order without `reordered` or `tokens`.
        """
        for depth, chosen in self.chosen.items():
            rows = chosen[place].tolist() if place in chosen else []
            if any(later <= row and later >= 0 for row, later in pairwise(rows)):
                raise ValueError(
                    f"select at depth {depth} returned rows {rows}: unique, ascending unless tokens are "
                    f"given or reordered=True"
                )

        def of(notes: Mapping[int, Mapping[Place, Tensor]]) -> dict[int, list[Any]]:
            return {depth: each[place].tolist() for depth, each in notes.items() if place in each}

        return of(self.kept), of(self.merged)

    def at_tower(self, hidden: Tensor) -> dict[Place, Selection]:
        """The projected tokens of each image that are kept at the tower's output."""
        chosen = {}
        for place in self.untouched.places:
            at, tokens = self._from_tower(place)
            projected = self.mllm.projector.forward(tokens)  # `forward` bypasses the hooks that store tokens
            whole = VISION not in self.schedules[place] and not self.signals.needed().crowds
            if whole:  # newlines stay as the model placed them
                own = hidden[place[0], self.untouched.visual(place)]
                projected = own.index_copy(0, at, projected.to(hidden))
                at = self.untouched.tokens(place)
            chosen[place] = Selection(at, projected)
        return chosen

    def _from_tower(self, place: Place) -> tuple[Tensor, Tensor]:
        """The visual tokens of one image to be projected: rows among its tokens, and features [K, C].

        Newlines, which the tower does not produce, are dropped.
        """
        index, picture = self.untouched.tokens(place), self.pictures[place]
        encoding = self.signals.needed()
        assert encoding.features is not None
        if encoding.crowds:
            return self._shortened_tiles(place, encoding.features, encoding.crowds)
        patches = picture.patches.to(index)
        tile, patch = picture.tile.to(index)[patches], picture.patch.to(index)[patches]
        features = encoding.features[self.signals.tiles[place] + tile, patch]
        if VISION not in self.schedules[place]:
            return patches, features
        selection = self._select(place, self.signals.at_tower(place, features, patches), self.untouched)
        at = origin(patches, selection.index)
        return at, features[selection.index] if selection.tokens is None else selection.tokens

    def _shortened_tiles(
        self, place: Place, features: Tensor, crowds: Sequence[Crowd]
    ) -> tuple[Tensor, Tensor]:
        """The tokens of an image's tiles that the tower itself kept, concatenated; padding is dropped."""
        picture, per_tile = self.pictures[place], self.mllm.tile_tokens
        row = features.new_full((picture.tiles * per_tile,), -1, dtype=torch.long)
        patches = picture.patches.to(row)
        row[(picture.tile * per_tile + picture.patch).to(row)[patches]] = patches
        index, merged, tokens = [], [], []
        for number in range(picture.tiles):
            tile = self.signals.tiles[place] + number
            at = row[number * per_tile + crowds[tile].index]
            stays = slice(None) if len(patches) == len(row) else at >= 0
            index.append(at[stays])
            merged.append((crowds[tile].size > 1)[stays])
            tokens.append(features[tile, : len(at)][stays])
            if self.flops is not None and (taken := self.signals.needed().flops):
                self.flops[place] += taken[tile]
        self._note(place, VISION, torch.cat(index), torch.cat(merged))
        return torch.cat(index), torch.cat(tokens)

    def at_layer(self, number: int, hidden: Tensor, layout: Layout, inputs: Inputs) -> dict[Place, Selection]:
        """The selections before decoder layer `number`, for images that keep fewer tokens from there on.

        `hidden` [B, L, D] and `layout` are the input of this layer; `inputs` covers it and the layer before.
        """
        chosen = {}
        for place in layout.places:
            left = len(layout.tokens(place))
            if self.schedules[place].get(number, left) >= left:
                continue
            view = self.signals.at_layer(number, place, hidden, layout, inputs)
            chosen[place] = self._select(place, view, layout)
            self.signals.kept(place, chosen[place].index)
        return chosen

    def _select(self, place: Place, view: View, layout: Layout) -> Selection:
        """Let the method select, check the form of its result and record the kept tokens."""
        keep = self.schedules[place][view.depth]
        with FlopCount() if self.flops is not None else nullcontext() as counter:
            if keep < len(view.hidden):
                chosen = self.selector.select(view, keep)
            else:  # the budget included newlines, which the tower lacks: all patches fit
                chosen = Selection(torch.arange(len(view.hidden)))
        if self.flops is not None and counter is not None:
            self.flops[place] += counter.total
        index, tokens, into = chosen.index.to(view.hidden.device), chosen.tokens, chosen.into
        if index.ndim != 1 or index.dtype != torch.long or not 1 <= len(index) <= len(view.hidden):
            raise ValueError(
                f"select returned index {tuple(index.shape)} {index.dtype}: give 1 to N int64 rows"
            )
        if tokens is not None and tokens.shape != (len(index), view.hidden.shape[1]):
            raise ValueError(
                f"select returned {len(index)} indices and tokens {tuple(tokens.shape)}: give [K, C]"
            )
        if tokens is not None and len(layout.runs(place)) > 1:  # each is in its representative's run
            order = layout.run_of(place, index).sort(stable=True).indices
            index, tokens = index[order], tokens[order]
            if into is not None:  # -1 stays
                into = torch.cat([order.argsort(), order.new_full((1,), -1)])[into.to(order.device)]
        merged = index < 0
        if tokens is not None:
            merged = merged | (tokens != view.hidden[index.clamp(min=0)]).any(1)
        free = chosen.reordered or tokens is not None
        self.reordered |= free
        rows = index.sort().values if free else index
        self.chosen.setdefault(view.depth, {})[place] = rows
        self._note(place, view.depth, origin(view.index, index), merged)
        return Selection(index, tokens, into)

    def _note(self, place: Place, depth: int, index: Tensor, merged: Tensor) -> None:
        self.kept.setdefault(depth, {})[place] = index
        self.merged.setdefault(depth, {})[place] = merged
