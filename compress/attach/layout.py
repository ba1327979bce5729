"""Where padding, text and visual tokens lie in a batch, before and after compression: index arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Place = tuple[int, int]  # sample of the batch, image of the sample
MISCOUNTED = (
    "; if every image is there, the processor's patch_size, num_additional_image_tokens or "
    "vision_feature_select_strategy does not fit the model"
)


@dataclass(frozen=True)
class Layout:
    """A batch as a decoder layer sees it: left-padded samples, each image's visual tokens in one run."""

    length: int  # rows per sample, padding included
    sizes: list[int]  # rows per sample that are not padding
    before: list[list[int]]  # per sample and image, text tokens before it
    index: list[list[Tensor]]  # [N] per sample and image, which of its untouched tokens each one is; -1 = all
    device: torch.device

    @property
    def places(self) -> list[Place]:
        """Every image of the batch, in order."""
        return [(sample, image) for sample, images in enumerate(self.index) for image in range(len(images))]

    def tokens(self, place: Place) -> Tensor:
        """Untouched indices [N] of the visual tokens of one image."""
        sample, image = place
        return self.index[sample][image]

    def first(self, sample: int) -> int:
        """The first row that is not padding."""
        return self.length - self.sizes[sample]

    def visual(self, place: Place) -> slice:
        """The rows of the visual tokens of one image."""
        sample, image = place
        earlier = sum(len(index) for index in self.index[sample][:image])
        start = self.first(sample) + self.before[sample][image] + earlier
        return slice(start, start + len(self.index[sample][image]))

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
            self.device,
        )

    @property
    def behind(self) -> int:
        """How many of the last rows are text in every sample, after its images."""
        ends = [
            self.visual((sample, len(images) - 1)).stop if images else self.first(sample) + 1
            for sample, images in enumerate(self.index)
        ]
        return self.length - max(ends)

    def shorten(self, chosen: Mapping[Place, Tensor]) -> tuple[Layout, Tensor]:
        """The layout after some images kept only the `chosen` rows of their run, and which rows these are.

        The second is [B, L'], left-padded with row 0. A chosen -1 takes the run's first row; images that are
        not listed keep all.
        """
        rows, index = [], []
        for sample, images in enumerate(self.index):
            kept, after = [], []
            for image, untouched in enumerate(images):
                picked = chosen.get((sample, image), torch.arange(len(untouched), device=self.device))
                kept.append(self.visual((sample, image)).start + picked.clamp(min=0))
                after.append(origin(untouched, picked))
            rows.append(self._woven(sample, kept))
            index.append(after)
        sizes = [len(row) for row in rows]
        after_all = Layout(max(sizes), sizes, self.before, index, self.device)
        return after_all, pad_sequence(rows, batch_first=True, padding_side="left")

    def rows_in(self, earlier: Layout) -> Tensor:
        """The row of an `earlier` layout of the batch at which each row stood, [B, length].

        A token that stands for the whole image stood at its first; padding is 0.
        """
        rows = []
        for sample, images in enumerate(self.index):
            visual = []
            for image, index in enumerate(images):
                place = sample, image
                same = index[:, None] == earlier.tokens(place)
                at = torch.where(index < 0, 0, same.long().argmax(1))
                visual.append(earlier.visual(place).start + at)
            rows.append(earlier._woven(sample, visual))
        return pad_sequence(rows, batch_first=True, padding_side="left")

    def _woven(self, sample: int, visual: Sequence[Tensor]) -> Tensor:
        """All rows of the sample's text, and rows for each of its images, in the order of the sequence."""
        text = list(self._text_runs(sample))
        return torch.cat([part for pair in zip(text, [*visual, text[-1][:0]], strict=True) for part in pair])

    def _text_runs(self, sample: int) -> Iterator[Tensor]:
        """Rows of the text before, between and after the images: one run more than images."""
        start = self.first(sample)
        for image in range(len(self.index[sample])):
            run = self.visual((sample, image))
            yield torch.arange(start, run.start, device=self.device)
            start = run.stop
        yield torch.arange(start, self.length, device=self.device)


def origin(index: Tensor, chosen: Tensor) -> Tensor:
    """Untouched index of the chosen rows of a view with this `index`; a chosen -1 stays -1."""
    return torch.where(chosen < 0, -1, index[chosen.clamp(min=0)]) if len(index) else index


def read_layout(
    ids: NDArray[np.int64], mask: Tensor | None, image_token: int, counts: Sequence[int], device: torch.device
) -> Layout:
    """The layout of a fresh batch in which the images, in order, have `counts` placeholders `image_token`.

    ids [B, S] are on the host, where all is counted; mask [B, S] or None; the layout is for `device`.
    Samples without an image are fine. ValueError for masks that are not 2-D, right padding, and placeholders
    that do not fit the images.
    """
    if mask is not None and (not isinstance(mask, Tensor) or tuple(mask.shape) != ids.shape):
        raise ValueError("attention_mask: give the 2-D mask that the processor returns")
    length = ids.shape[1]
    sizes = [length] * len(ids)
    if mask is not None:
        given = mask.cpu().numpy().astype(np.int64)
        if not given[:, -1].all() or (np.diff(given) < 0).any():
            raise ValueError("attention_mask has holes or right padding: pad on the left")
        sizes = given.sum(1).tolist()
    left = list(counts)
    before: list[list[int]] = []
    index: list[list[Tensor]] = []
    for sample, row in enumerate(ids == image_token):
        runs = _runs(row)
        starts: list[int] = []
        images: list[Tensor] = []
        for start, stop in runs:
            while start < stop:
                count = left.pop(0) if left else 0
                if not 0 < count <= stop - start:
                    raise ValueError(
                        f"sample {sample} of the batch holds {sum(map(len, images)) + stop - start} or more "
                        f"visual tokens that fit no image: give every image that the prompt names, once"
                        f"{MISCOUNTED}"
                    )
                starts.append(start - length + sizes[sample] - sum(map(len, images)))
                images.append(torch.arange(count, device=device))
                start += count
        before.append(starts)
        index.append(images)
    return Layout(length, sizes, before, index, device)


def _runs(placeholder: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of every run of True in a row [S]."""
    edges = np.flatnonzero(np.diff(np.pad(placeholder.astype(np.int8), 1))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
