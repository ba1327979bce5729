"""Positions of padding, text and visual tokens in a batch, before and after compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compress.models.mllm import runs_of

Place = tuple[int, int]  # sample of the batch, image of the sample
MISCOUNTED = (
    "; if every image is there, the processor's patch_size, num_additional_image_tokens or "
    "vision_feature_select_strategy does not fit the model"
)


@dataclass(frozen=True)
class Layout:
    """The rows of a batch in a decoder layer: left-padded samples, and one or more runs per image.

    A run is a contiguous sequence of an image's visual tokens. Text between the runs of an image keeps its
    position.
    """

    length: int  # rows per sample, padding included
    sizes: list[int]  # rows per sample that are not padding
    before: list[list[int]]  # per sample and run, text tokens before it
    index: list[list[Tensor]]  # [N] per sample and run, index of each token in its image; -1 = whole image
    owner: list[list[int]]  # per sample and run, number of its image, from 0 without gaps
    device: torch.device
    size: Tensor | None = None  # [B, length] number of tokens each row counts for in attention; None = one

    @property
    def places(self) -> list[Place]:
        """Every image of the batch, in order."""
        return [(sample, image) for sample, owner in enumerate(self.owner) for image in sorted(set(owner))]

    def runs(self, place: Place) -> list[int]:
        """The numbers of the sample's runs that belong to one image."""
        sample, image = place
        return [run for run, owner in enumerate(self.owner[sample]) if owner == image]

    def tokens(self, place: Place) -> Tensor:
        """Original indices [N] of the visual tokens of one image."""
        return _joined([self.index[place[0]][run] for run in self.runs(place)])

    def first(self, sample: int) -> int:
        """The first row that is not padding."""
        return self.length - self.sizes[sample]

    def visual(self, place: Place) -> Tensor:
        """The rows [N] of the visual tokens of one image."""
        rows = [self._run(place[0], run) for run in self.runs(place)]
        return _joined([torch.arange(run.start, run.stop, device=self.device) for run in rows])

    def _run(self, sample: int, run: int) -> slice:
        earlier = sum(len(index) for index in self.index[sample][:run])
        start = self.first(sample) + self.before[sample][run] + earlier
        return slice(start, start + len(self.index[sample][run]))

    def text(self, sample: int) -> Tensor:
        """The rows [T] of the tokens that belong to no image."""
        return torch.cat(list(self._text_runs(sample)))

    @property
    def padded(self) -> bool:
        """Whether samples differ in length."""
        return any(size < self.length for size in self.sizes)

    def mask(self, decoded: int = 0) -> Tensor | None:
        """[B, length + decoded] bool, False = padding; None if there is no padding."""
        if not self.padded:
            return None
        padding = self.length - torch.tensor(self.sizes, device=self.device)
        return torch.arange(self.length + decoded, device=self.device) >= padding[:, None]

    def take(self, rows: Sequence[int]) -> Layout:
        """The layout of a batch of these samples, in this order."""
        return Layout(
            self.length,
            [self.sizes[row] for row in rows],
            [self.before[row] for row in rows],
            [self.index[row] for row in rows],
            [self.owner[row] for row in rows],
            self.device,
            None if self.size is None else self.size[list(rows)],
        )

    @property
    def behind(self) -> int:
        """The number of trailing rows that are text in every sample, after all images."""
        ends = [
            self._run(sample, len(runs) - 1).stop if runs else self.first(sample) + 1
            for sample, runs in enumerate(self.index)
        ]
        return self.length - max(ends)

    def shorten(self, chosen: Mapping[Place, Tensor]) -> tuple[Layout, Tensor]:
        """The layout after some images kept only the `chosen` of their tokens, and the rows that remain.

        The rows are [B, L'], left-padded with row 0. A chosen -1 takes the position of the image's first
        token; images that are not listed keep all. A token of an image in several runs stays in its run,
        which may become empty.
        """
        rows, index = [], []
        for sample, runs in enumerate(self.index):
            kept, after = [], []
            picks = self._split(sample, chosen)
            for run, untouched in enumerate(runs):
                picked = picks.get(run, torch.arange(len(untouched), device=self.device))
                kept.append(self._run(sample, run).start + picked.clamp(min=0))
                after.append(origin(untouched, picked))
            rows.append(self._woven(sample, kept))
            index.append(after)
        sizes = [len(row) for row in rows]
        found = pad_sequence(rows, batch_first=True, padding_side="left")
        size = None if self.size is None else self.size.gather(1, found)
        return Layout(max(sizes), sizes, self.before, index, self.owner, self.device, size), found

    def joined(self, place: Place, into: Tensor, after: Layout) -> Layout:
        """The layout `after` shortening, with the number of tokens that joined each token of one image.

        Attention weights each token by this number. `into` [N] is in 0 .. K - 1, -1 = none.
        """
        sample, kept, into = place[0], after.visual(place), into.to(self.device)
        before = torch.ones(len(into), device=self.device)
        if self.size is not None:
            before = self.size[sample, self.visual(place)]
        size = before.new_ones(len(self.sizes), after.length) if after.size is None else after.size.clone()
        counts = before.new_zeros(len(kept) + 1).index_add(0, into % (len(kept) + 1), before)
        size[sample, kept] = counts[:-1]
        return replace(after, size=size)

    def run_of(self, place: Place, rows: Tensor) -> Tensor:
        """The number of the run, among its image's, of each of the tokens `rows` [K]; the first run for -1.

        [K], zeros for an image in one run.
        """
        lengths = [len(self.index[place[0]][run]) for run in self.runs(place)]
        ends = torch.tensor(lengths[:-1], device=rows.device).cumsum(0)
        filled = next((number for number, length in enumerate(lengths) if length), 0)
        return torch.where(rows < 0, filled, torch.bucketize(rows, ends, right=True))

    def _split(self, sample: int, chosen: Mapping[Place, Tensor]) -> dict[int, Tensor]:
        """The chosen tokens of a sample's images by run, with indices relative to the run's first token."""
        found: dict[int, Tensor] = {}
        for image in set(self.owner[sample]):
            place = sample, image
            if (picked := chosen.get(place)) is None:
                continue
            runs, before = self.runs(place), 0
            if len(runs) == 1:
                found[runs[0]] = picked
                continue
            stands = self.run_of(place, picked)
            for number, run in enumerate(runs):
                mine = picked[stands == number]
                found[run] = torch.where(mine < 0, -1, mine - before)
                before += len(self.index[sample][run])
        return found

    def rows_in(self, earlier: Layout) -> Tensor:
        """The former row of each row, in an `earlier` layout of the batch, [B, length].

        A token that represents the whole image maps to the image's first row; padding is 0.
        """
        rows = []
        for sample, owner in enumerate(self.owner):
            visual: dict[int, Tensor] = {}
            for image in set(owner):
                place = sample, image
                index = self.tokens(place)
                same = index[:, None] == earlier.tokens(place)
                at = torch.where(index < 0, 0, same.long().argmax(1))
                runs = self.runs(place)
                parts = earlier.visual(place)[at].split([len(self.index[sample][run]) for run in runs])
                visual.update(zip(runs, parts, strict=True))
            rows.append(earlier._woven(sample, [visual[run] for run in range(len(owner))]))
        return pad_sequence(rows, batch_first=True, padding_side="left")

    def _woven(self, sample: int, visual: Sequence[Tensor]) -> Tensor:
        """All rows of the sample's text, and rows for each of its runs, in the order of the sequence."""
        text = list(self._text_runs(sample))
        return torch.cat([part for pair in zip(text, [*visual, text[-1][:0]], strict=True) for part in pair])

    def _text_runs(self, sample: int) -> Iterator[Tensor]:
        """Yield the rows of the text before, between and after the visual runs: one more run than those."""
        start = self.first(sample)
        for number in range(len(self.index[sample])):
            run = self._run(sample, number)
            yield torch.arange(start, run.start, device=self.device)
            start = run.stop
        yield torch.arange(start, self.length, device=self.device)


def origin(index: Tensor, chosen: Tensor) -> Tensor:
    """Original indices of the chosen rows of a view with this `index`; a chosen -1 stays -1."""
    return torch.where(chosen < 0, -1, index[chosen.clamp(min=0)]) if len(index) else index


def read_layout(
    visual: NDArray[np.bool_], mask: Tensor | None, counts: Sequence[Sequence[int]], device: torch.device
) -> Layout:
    """The layout of a fresh batch whose images, in order, have runs of `counts` placeholders.

    `visual` [B, S], True = placeholder, is on the host, where counting takes place; `mask` is [B, S] or None;
    the layout's tensors are on `device`. Samples without an image are allowed. ValueError for masks that are
    not 2-D, right padding, and placeholders that do not fit the images.
    """
    if mask is not None and (not isinstance(mask, Tensor) or tuple(mask.shape) != visual.shape):
        raise ValueError("attention_mask: give the 2-D mask that the processor returns")
    length = visual.shape[1]
    sizes = [length] * len(visual)
    if mask is not None:
        given = mask.cpu().numpy().astype(np.int64)
        if not given[:, -1].all() or (np.diff(given) < 0).any():
            raise ValueError("attention_mask has holes or right padding: pad on the left")
        sizes = given.sum(1).tolist()
    left = [
        (count, sum(runs[:number]), number == len(runs) - 1)
        for runs in counts for number, count in enumerate(runs)
    ]  # fmt: skip
    before: list[list[int]] = []
    index: list[list[Tensor]] = []
    owner: list[list[int]] = []
    for sample, row in enumerate(visual):
        starts: list[int] = []
        found: list[Tensor] = []
        owners: list[int] = []
        image = 0
        for start, stop in runs_of(row):
            while start < stop:
                count, earlier, last = left.pop(0) if left else (0, 0, True)
                if not 0 < count <= stop - start:
                    raise ValueError(
                        f"sample {sample} of the batch holds {sum(map(len, found)) + stop - start} or more "
                        f"visual tokens that fit no image: give every image that the prompt names, once"
                        f"{MISCOUNTED}"
                    )
                starts.append(start - length + sizes[sample] - sum(map(len, found)))
                found.append(torch.arange(earlier, earlier + count, device=device))
                owners.append(image)
                image += last
                start += count
        before.append(starts)
        index.append(found)
        owner.append(owners)
    return Layout(length, sizes, before, index, owner, device)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
