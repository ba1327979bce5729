"""Builds the `View` of one image of a batch; the signals that methods ask for are computed on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from compress.attach.attention import (
    Tables,
    cls_scores,
    decoder_heads,
    decoder_rows,
    patch_keys,
    patch_queries,
    received,
    still,
    tower_keys,
    window,
)
from compress.attach.layout import Layout, Place
from compress.attach.tower import Encoding, TowerInput
from compress.base import VISION, Positions, Selector, View
from compress.models.loading import MLLM, Picture


@dataclass(frozen=True)
class LayerInput:
    """The input of a decoder layer, for a whole batch or for one sample of it without padding."""

    hidden: Tensor  # [B, L, D], or [L, D]
    tables: Tables  # rotary tables [1 or B, L, ...], nested as in the model
    mask: Tensor | None  # [1 or B, 1 or H, L, L] bool or additive; None = causal


Inputs = dict[int, Callable[[], LayerInput]]  # for the decoder layers that can be read at a depth


class Signals:
    """The views of the images of one batch, from the tower to the last stage in the decoder."""

    def __init__(
        self, mllm: MLLM, selector: Selector, positions: Positions, ids: Tensor, untouched: Layout,
        pictures: Mapping[Place, Picture], embed: Callable[[Tensor], Tensor] | None = None,
    ):  # fmt: skip
        self.mllm, self.selector, self.positions = mllm, selector, positions
        self.embed = embed or mllm.embed_ids
        self.ids, self.untouched, self.pictures = ids, untouched, pictures
        self.encoding: Encoding | None = None
        self.tiles: dict[Place, int] = {}  # first tile of each image among those that the tower encoded
        self.text: list[Tensor] = []  # per sample, embeddings of the tokens that belong to no image
        self.entered: dict[Place, Tensor] = {}  # embeddings of the visual tokens that left the tower
        self.aligned: dict[Place, Tensor] = {}  # embeddings of the remaining visual tokens
        self.read: dict[Any, list[Tensor]] = {}  # cached signals of the tower, by image, layer and kind

    def receive(self, encoding: Encoding | None) -> None:
        """Take the tower's encoding for this batch; None if it was not recorded."""
        self.encoding = encoding
        counts = [picture.tiles for picture in self.pictures.values()]
        if encoding is None or not counts or sum(counts) % len(encoding.pixels):
            self.encoding = None
            return
        beams = sum(counts) // len(encoding.pixels)  # number of rows that share their images
        own = [place for place in self.pictures if place[0] % beams == 0]
        own.sort(key=lambda place: self.pictures[place].video)  # the tower gets images first
        ends = accumulate((self.pictures[place].tiles for place in own), initial=0)
        starts = dict(zip(own, ends, strict=False))
        self.tiles = {(row, image): starts[row - row % beams, image] for row, image in self.pictures}

    def read_text(self, hidden: Tensor) -> None:
        """Store the text rows of the prompts' embeddings [B, S, D], before any token is dropped."""
        self.text = [rows[self.untouched.text(sample)] for sample, rows in enumerate(hidden)]

    def read_visual(self, hidden: Tensor, layout: Layout) -> None:
        """Store the embeddings of the visual tokens that left the tower, from hidden states [B, L, D]."""
        self.entered = {place: hidden[place[0], layout.visual(place)] for place in layout.places}
        self.aligned = dict(self.entered)

    def kept(self, place: Place, index: Tensor) -> None:
        """Keep only these rows [K] of an image's last view; -1 is a token of the whole image."""
        self.aligned[place] = self.aligned[place][index.clamp(min=0)]

    def close(self) -> None:
        """Release all tensors; views no longer work."""
        self.text, self.entered, self.aligned, self.read = [], {}, {}, {}
        self.encoding = None

    def needed(self) -> Encoding:
        """The tower's encoding; ValueError if the encoding of these images was not recorded."""
        if self.encoding is None:
            name = type(self.selector).__name__
            raise ValueError(f"{name} reads the image: give pixel_values, every image once, not its features")
        return self.encoding

    def at_tower(self, place: Place, features: Tensor, patches: Tensor) -> View:
        """The view of an image at the tower's output: features [N, C] of the visual tokens `patches` [N]."""
        encoding, first, text = self.needed(), self.tiles[place], self.text[place[0]]
        cls = encoding.cls
        return View(
            depth=VISION,
            hidden=features,
            visual=text.new_empty(0, text.shape[-1]),
            text=text,
            index=patches,
            projected=partial(self.mllm.projector.forward, features),  # `forward` bypasses hooks
            clip=partial(self._clip, place[0], features),
            cls_token=None if cls is None else cls[first : first + self.pictures[place].tiles],
            **self._anywhere(place, patches),
        )

    def at_layer(self, number: int, place: Place, hidden: Tensor, layout: Layout, inputs: Inputs) -> View:
        """The view of an image before decoder layer `number`, in a batch of hidden states [B, L, D]."""
        sample, index = place[0], layout.tokens(place)
        return View(
            depth=number,
            hidden=hidden[sample, layout.visual(place)],
            visual=self.aligned[place],
            text=self.text[sample],
            index=index,
            inputs=self.entered[place],
            context=hidden[sample, layout.text(sample)],
            attention=partial(self._attention, place, layout, inputs),
            decoder_keys=partial(self._of_decoder, "key", place, layout, inputs),
            decoder_values=partial(self._of_decoder, "value", place, layout, inputs),
            unrotated=partial(self._unrotated, place, layout, inputs),
            norm=self.mllm.decoder.norm,
            **self._anywhere(place, index),
        )

    def _anywhere(self, place: Place, index: Tensor) -> dict[str, Any]:
        """The fields of a view that all depths share; callables compute when they are called."""
        picture = self.pictures[place]

        def by_tile(
            layer: float, signal: Callable[[Any, Tensor], Tensor], newline: float
        ) -> tuple[list[Tensor], Tensor]:
            """A signal [..., 1 + M] of every tile's tokens, and its values [..., N] for the view's tokens."""
            parts, rows = self._tower_inputs(place, layer, index)
            key = place, layer, signal
            if key not in self.read:
                module = self.mllm.tower_layers[self.mllm.tower_block(layer)]
                self.read[key] = [signal(module, part) for part in parts]
            found = torch.cat(self.read[key], -1)[..., rows.clamp(min=0)]
            return self.read[key], torch.where(rows < 0, newline, found)

        def scores(layer: float) -> Tensor:
            tiles, found = by_tile(layer, cls_scores, -torch.inf)
            return torch.cat([*(tile[:, :1] for tile in tiles), found], 1)

        def attention(layer: float) -> Tensor:
            return by_tile(layer, cls_weights, 0)[1]

        def keys(layer: float) -> Tensor:
            if self.mllm.receives:
                return self._of_patches(place, layer, patch_keys)[..., index].movedim(-1, 0)
            return by_tile(layer, keys_by_column, 0)[1].movedim(-1, 0)

        def queries(layer: float) -> Tensor:
            return self._of_patches(place, layer, patch_queries)[..., index].movedim(-1, 0)

        def attention_received(layer: float) -> Tensor:
            return self._of_patches(place, layer, received)[:, index]

        def probe() -> tuple[Tensor, Tensor]:
            last, first, frames, attended = self.needed().last, self.tiles[place], [], []
            assert last is not None
            for tile in last[first : first + picture.tiles]:
                pooled, weights = self.mllm.pooled(tile)
                frames.append(pooled)
                attended.append(self.mllm.of_tokens(picture, weights))
            at = picture.tile * len(attended[0]) + picture.patch
            found = torch.where(at < 0, 0, torch.cat(attended)[at.clamp(min=0)])
            return torch.stack(frames), found.to(index.device)[index]

        several = picture.tiles > 1 and not picture.video
        tile = picture.tile.to(index)
        return {
            "grid": picture.grid,
            "before": self.untouched.before[place[0]][self.untouched.runs(place)[0]],
            "crop": tile[index.clamp(min=0)] if several else None,
            "frames": picture.tiles if picture.video else 1,
            "frame": tile[index.clamp(min=0)] if picture.video else None,
            "cls": attention,
            "scores": scores,
            "keys": keys,
            **({"received": attention_received, "queries": queries} if self.mllm.receives else {}),
            **({"probe": probe} if self.mllm.pools else {}),
            "words": partial(self._words, place[0]),
            "seed": partial(self._seed, place),
        }

    def _of_patches(self, place: Place, layer: float, signal: Callable[..., Tensor]) -> Tensor:
        """A signal [..., N] of an image's tokens, from the signal of the patches of every tile.

        Each token gets the mean over its patches; newlines get 0.
        """
        key = place, layer, signal
        if key not in self.read:
            picture, block = self.pictures[place], self.mllm.tower_layers[self.mllm.tower_block(layer)]
            tiles = []
            for number in range(picture.tiles):
                tile = self.tiles[place] + (number + picture.whole) % picture.tiles
                tiles.append(self.mllm.of_tokens(picture, signal(block, *self._tile(layer, tile))))
            at = picture.tile * tiles[0].shape[-1] + picture.patch
            found = torch.cat(tiles, -1)[..., at.clamp(min=0)]
            self.read[key] = [torch.where(at < 0, 0, found)]
        return self.read[key][0]

    def _tile(self, layer: float, number: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The input [M, C] of a tower layer for one tile, and its part of the rotary tables [M, d]."""
        given = self._recorded(layer)
        if given.hidden.ndim == 3:
            return given.hidden[number], ()
        lengths = [len(pixels) for pixels in self.needed().pixels]
        rows = slice(sum(lengths[:number]), sum(lengths[: number + 1]))
        return given.hidden[rows], tuple(table[rows] for table in given.rotary)

    def _recorded(self, layer: float) -> TowerInput:
        """The input of a tower layer; ValueError for a layer that the method does not list."""
        encoding = self.needed()
        if layer not in encoding.inputs:
            listed = ", ".join(map(str, self.selector.tower_layers)) or "none"
            raise ValueError(
                f"tower layer {layer} was not recorded: the method's tower_layers lists {listed}"
            )
        return encoding.inputs[layer]

    def _tower_inputs(self, place: Place, layer: float, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """The input of a tower layer for every tile of an image, [1 + M, C] each, and row indices [N].

        The indices locate the tokens of a view in the concatenated inputs: the first tile's CLS for -1, and
        -1 for newlines.
        """
        given, picture, per_tile = self._recorded(layer), self.pictures[place], self.mllm.tile_tokens
        parts, length = [], 0
        row = index.new_full((picture.tiles * per_tile,), -1)  # by tile and patch
        for number in range(picture.tiles):
            tile = self.tiles[place] + number
            there = given.crowds[tile].index.to(index)
            parts.append(given.hidden[tile, : 1 + len(there)])
            row[number * per_tile + there] = length + 1 + torch.arange(len(there), device=row.device)
            length += 1 + len(there)
        owner, patch = (each.to(index)[index.clamp(min=0)] for each in (picture.tile, picture.patch))
        found = torch.where(owner < 0, -1, row[(owner * per_tile + patch).clamp(min=0)])
        return parts, torch.where(index < 0, 0, found)

    def _clip(self, sample: int, features: Tensor, truncate: bool) -> tuple[Tensor, Tensor]:
        source = self.selector.reads_clip
        if source is None:
            raise ValueError(f"{type(self.selector).__name__} reads CLIP's joint space: say so in reads_clip")
        clip, key = self.mllm.clip(source), ("clip", sample, truncate)
        if key not in self.read:
            prompt = self.ids[sample, self.untouched.first(sample) :]
            self.read[key] = [clip.texts(self.mllm.question(prompt), truncate)]
        return clip.patches(features), self.read[key][0]

    def _words(self, sample: int, pick: Callable[[str], Sequence[str]]) -> Tensor:
        prompt = self.ids[sample, self.untouched.first(sample) :]
        words = pick(self.mllm.question(prompt))
        if not words:
            raise ValueError(f"{type(self.selector).__name__} reads the question: ask one")
        return self.embed(torch.tensor(self.mllm.word_ids(words), device=self.ids.device))

    def _attention(
        self, place: Place, layout: Layout, inputs: Inputs, layer: int,
        rows: Sequence[int] | Tensor | None,
    ) -> Tensor:  # fmt: skip
        sample = place[0]
        given = self._decoder_input(sample, layout, inputs, layer)
        start, visual = layout.first(sample), layout.visual(place)
        if rows is None:
            asked = torch.arange(len(given.hidden), device=layout.device)
        else:
            text = layout.text(sample)
            last = self.untouched.runs(place)[-1]
            if self.untouched.before[sample][last] >= len(text):  # text before the image cannot attend to it
                name = type(self.selector).__name__
                raise ValueError(f"{name} asks the text behind the image: put the question there")
            asked = text[torch.as_tensor(rows, device=layout.device)] - start
        seen, sees = None, window(self.mllm.decoder, layer)
        if given.mask is not None:
            seen = given.mask[0, asked]
        elif sees is not None:
            reference = self.untouched if self.positions == "original" else layout
            at = layout.rows_in(reference)[sample, start:]
            order = torch.arange(len(at), device=at.device)
            seen = (order <= asked[:, None]) & (at[asked, None] - at < sees)
        layers = self.mllm.decoder.layers
        size = None if layout.size is None else layout.size[sample, start:]
        weights = decoder_rows(layers[layer], given.hidden, given.tables, asked, seen, size)
        return weights[..., visual - start]

    def _of_decoder(
        self, kind: Literal["key", "value"], place: Place, layout: Layout, inputs: Inputs, layer: int
    ) -> tuple[Tensor, Tensor]:
        sample = place[0]
        given = self._decoder_input(sample, layout, inputs, layer)
        heads = decoder_heads(self.mllm.decoder.layers[layer], given.hidden, given.tables)
        found, start = getattr(heads, kind).transpose(0, 1), layout.first(sample)
        return found[layout.visual(place) - start], found[layout.text(sample) - start]

    def _unrotated(
        self, place: Place, layout: Layout, inputs: Inputs, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = self._decoder_input(place[0], layout, inputs, layer)
        visual = layout.visual(place) - layout.first(place[0])
        heads = decoder_heads(self.mllm.decoder.layers[layer], given.hidden, still(given.tables))
        query, key = (each[:, : int(visual[-1]) + 1].transpose(0, 1) for each in (heads.query, heads.key))
        return query * heads.scaling, key, visual

    @staticmethod
    def _decoder_input(sample: int, layout: Layout, inputs: Inputs, layer: int) -> LayerInput:
        """One sample's input of a decoder layer, without padding: [L, D], [1, L, ...], [H, L, L] bool."""
        if layer not in inputs:
            known = " and ".join(map(str, inputs))
            raise ValueError(f"decoder layer {layer} cannot be read at this depth, only {known}")
        given, first = inputs[layer](), layout.first(sample)

        def own(table: Tables) -> Tables:
            if not isinstance(table, Tensor):
                return tuple(own(each) for each in table)
            return table[sample if len(table) > 1 else 0][None, first:]

        mask = given.mask
        if mask is not None:
            mask = mask[sample if len(mask) > 1 else 0][:, first:, first:]
            mask = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        return LayerInput(given.hidden[sample, first:], own(given.tables), mask)

    def _seed(self, place: Place) -> int:
        encoding, first = self.needed(), self.tiles[place]
        pixels = encoding.pixels[first : first + self.pictures[place].tiles]
        digest = hashlib.blake2b(digest_size=8)
        prompt = self.ids[place[0], self.untouched.first(place[0]) :]
        for part in (*pixels, prompt):
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
        return int.from_bytes(digest.digest(), "little")


def cls_weights(layer: Any, hidden: Tensor) -> Tensor:
    """Attention of CLS [H, 1 + M], float32."""
    return cls_scores(layer, hidden).softmax(-1, dtype=torch.float32)


def keys_by_column(layer: Any, hidden: Tensor) -> Tensor:
    """Keys [H, d, 1 + M]."""
    return tower_keys(layer, hidden).movedim(0, -1)
