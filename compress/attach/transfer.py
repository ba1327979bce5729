"""Keeps tokens selected on one model in another model with the same visual tokens (paper Table 3).

The method acts at its own depths on both models: relative depths scale with each decoder, and fixed layer
numbers stay the same. The counts are computed for the model that keeps the tokens, so that a budget means the
same in all rows of its tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compress.attach.session import attach
from compress.base import VISION, Selection, Selector, TowerSelector, View
from compress.budget import Match, plan
from compress.keep import Keep
from compress.models.loading import MLLM
from compress.video import Visual


class Choice(NamedTuple):
    """One call of `select`: the size and grid of its view, and the rows that were kept."""

    tokens: int
    grid: tuple[int, int]
    rows: Tensor


def check_twins(source: MLLM, mllm: MLLM) -> None:
    """ValueError unless an index means the same visual token of an image for both models."""
    theirs, ours = (f"{one.visual_tokens} in a grid of {one.grid}" for one in (source, mllm))
    if theirs != ours:
        raise ValueError(
            f"indices from {source.name} do not fit {mllm.name}: their images have {theirs} and {ours} "
            f"visual tokens; choose two models with the same number"
        )


def choose(
    source: MLLM, images: Sequence[Visual], questions: Sequence[str], selector: Selector, keep: Keep,
    layers: int, match: Match = "equivalent",
) -> Selector:  # fmt: skip
    """Let `selector` select on `source` the tokens of these samples for a model with `layers` layers.

    The result is a method that replays this selection, for one prefill of the same samples in the same order.
    ValueError for a method that makes new tokens, since an index does not describe them.
    """
    there = Elsewhere(selector, layers, match)
    with attach(source, there, keep, match="tokens"), torch.no_grad():
        source.model(**source.prepare(images, questions))
    return Replay(selector, iter(there.noted))


class Elsewhere(Selector):
    """`selector` on the model that selects: it keeps the count for the other model and records it."""

    def __init__(self, selector: Selector, layers: int, match: Match):
        self.selector, self.layers, self.match = selector, layers, match
        self.adaptive, self.positions, self.cls = selector.adaptive, selector.positions, selector.cls
        self.noted: list[Choice] = []

    @property
    def tower_layers(self) -> tuple[float, ...]:
        return self.selector.tower_layers

    @property
    def reads_clip(self) -> str | None:
        return self.selector.reads_clip

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        counts = plan(self.selector, tokens, keep, self.layers, self.match)
        if VISION in counts and isinstance(self.selector, TowerSelector):
            raise self._makes_tokens()
        here, there = (sorted(self.selector.schedule(tokens, keep, n)) for n in (layers, self.layers))
        if len(here) != len(there):
            raise ValueError(
                f"{type(self.selector).__name__} acts {len(here)} times in a decoder of {layers} layers and "
                f"{len(there)} times in one of {self.layers}: its selection cannot be used there"
            )
        return {depth: counts[then] for depth, then in zip(here, there, strict=True) if then in counts}

    def select(self, view: View, keep: int) -> Selection:
        chosen = self.selector.select(view, keep)
        index, tokens = chosen.index, chosen.tokens
        if tokens is not None and ((index < 0).any() or not torch.equal(tokens, view.hidden[index])):
            raise self._makes_tokens()
        self.noted.append(Choice(len(view.hidden), view.grid, index))
        return chosen

    def _makes_tokens(self) -> ValueError:
        return ValueError(
            f"{type(self.selector).__name__} makes new tokens, of which an index says nothing: only methods "
            f"that drop tokens can choose on another model"
        )


@dataclass
class Replay(Selector):
    """Keeps the recorded selections of `selector`, by stage and by image, in the order of the calls."""

    selector: Selector
    noted: Iterator[Choice]

    def __post_init__(self) -> None:
        self.adaptive, self.positions = self.selector.adaptive, self.selector.positions

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return self.selector.schedule(tokens, keep, layers)

    def select(self, view: View, keep: int) -> Selection:
        choice = next(self.noted, None)
        if choice is None or (choice.tokens, choice.grid) != (len(view.hidden), view.grid):
            raise ValueError(
                f"an image has {len(view.hidden)} visual tokens here and others on the model that chose: "
                f"choose two models that cut images alike"
            )
        index = choice.rows.to(view.hidden.device)
        return Selection(index, reordered=True)
