"""Where padding, text and visual tokens lie in a batch, before and after compression: index arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Layout:
    """A batch as a decoder layer sees it: left-padded samples, the visual tokens of each in one run."""

    length: int  # rows per sample, padding included
    sizes: list[int]  # rows per sample that are not padding
    before: list[int]  # text tokens before the image
    index: list[
        Tensor
    ]  # [N] per sample, which visual token of the untouched batch each one is; -1 = the whole image

    @property
    def device(self) -> torch.device:
        return self.index[0].device

    def first(self, sample: int) -> int:
        """The first row that is not padding."""
        return self.length - self.sizes[sample]

    def visual(self, sample: int) -> slice:
        """The rows of the visual tokens."""
        start = self.first(sample) + self.before[sample]
        return slice(start, start + len(self.index[sample]))

    def text(self, sample: int) -> Tensor:
        """The rows [T] of the other tokens."""
        run, rows = self.visual(sample), torch.arange(self.length, device=self.device)
        return torch.cat([rows[self.first(sample) : run.start], rows[run.stop :]])

    def mask(self, decoded: int = 0) -> Tensor | None:
        """[B, length + decoded] bool, False = padding; None if there is no padding."""
        if all(size == self.length for size in self.sizes):
            return None
        padding = self.length - torch.tensor(self.sizes, device=self.device)
        return torch.arange(self.length + decoded, device=self.device) >= padding[:, None]

    def shorten(self, chosen: Mapping[int, Tensor]) -> tuple[Layout, Tensor]:
        """The layout after some samples kept only the `chosen` rows of their visual run, and which rows these
        are.

        The second is [B, L'], left-padded with row 0. A chosen -1 takes the first visual row; samples that
        are not listed keep all.
        """
        rows, index = [], []
        for sample, untouched in enumerate(self.index):
            run, every = self.visual(sample), torch.arange(self.length, device=self.device)
            picked = chosen.get(sample, torch.arange(len(untouched), device=self.device))
            head, tail = every[self.first(sample) : run.start], every[run.stop :]
            rows.append(torch.cat([head, run.start + picked.clamp(min=0), tail]))
            index.append(origin(untouched, picked))
        sizes = [len(row) for row in rows]
        after = Layout(max(sizes), sizes, self.before, index)
        return after, pad_sequence(rows, batch_first=True, padding_side="left")


def origin(index: Tensor, chosen: Tensor) -> Tensor:
    """Untouched index of the chosen rows of a view with this `index`; a chosen -1 stays -1."""
    return torch.where(chosen < 0, -1, index[chosen.clamp(min=0)]) if len(index) else index


def read_layout(ids: Tensor, mask: Tensor | None, image_token: int, tokens: int) -> Layout:
    """The layout of a fresh batch with `tokens` placeholders of id `image_token` per image; text-only samples
    are fine.

    ids [B, S]; mask [B, S] or None. ValueError for masks that are not 2-D, right padding and several images
    in a sample.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != ids.shape):
        raise ValueError("attention_mask: give the 2-D mask that the processor returns")
    length = ids.shape[1]
    sizes = [length] * len(ids)
    if mask is not None:
        if not mask[:, -1].all() or (mask.int().diff(dim=1) < 0).any():
            raise ValueError("attention_mask has holes or right padding: pad on the left")
        sizes = mask.sum(1).tolist()
    before, index = [], []
    for sample, row in enumerate(ids == image_token):
        rows = row.nonzero()[:, 0].tolist()
        if rows and (len(rows) != tokens or rows[-1] - rows[0] + 1 != tokens):
            raise ValueError(
                f"sample {sample} of the batch holds {len(rows)} visual tokens where one image has {tokens}: "
                f"give one image per sample"
            )
        before.append(rows[0] - length + sizes[sample] if rows else sizes[sample])
        index.append(torch.arange(len(rows), device=ids.device))
    return Layout(length, sizes, before, index)
