from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import best_of_each
from baselines.peaks import density_peaks
from baselines.pool import means
from baselines.videos import frames_of, merged_into, newlines_of, raised, solved
from compress.base import INPUT, Selection, Selector, View, scaled_layer

NEIGHBOURS = 7  # nearest neighbours, the token included, that define its density
FEW = 14  # largest part that officially stays unclustered, in tokens


class Segment(NamedTuple):
    """A window of frames with its static places."""

    first: int
    last: int  # frame
    static: Tensor  # [n] bool

    @property
    def sizes(self) -> list[int]:
        """The sizes of its parts: the static tokens, then the others of each frame."""
        still = int(self.static.sum())
        return [still, *([len(self.static) - still] * (self.last - self.first + 1))]


@dataclass
class PruneVid(Selector):
    """Merge static tokens within scenes of a video, cluster the rest, then prune what the prompt ignores.

    "PruneVid: Visual Token Pruning for Efficient Video Large Language Models" (Huang et al., ACL 2025, arXiv
    2412.16117).
    1. At the decoder's input, frames are clustered by their mean into windows, `scenes` times as many as
       frames. A place is static in a window if the mean similarity over pairs of its tokens exceeds
       `similarity`; static places are averaged over the window. The static tokens of a window, and the others
       of each of its frames, form parts that are each merged into clusters.
    2. After decoder layer `layer` of 32, each part keeps a share `ratio` of its tokens by the largest
       attention, over heads, from any prompt token after the video. After the prefill, the KV caches of all
       layers are cropped to these tokens.

    The official code has no budget: a part of more than 14 tokens is reduced to a share `clusters` of them,
    and `ratio` is rounded down in each part. Here the budget decides: the second stage keeps a share `ratio`
    of the first, and at both stages one share, the same for all parts, is solved for the count. With
    `adaptive` the official counts apply and the budget is ignored.

    Departures: if so many places are static that the budget cannot be spent, `similarity` is raised until it
    can. The noise that the code adds to densities is off. Positions are contiguous at both stages, officially
    at the first only. All newlines stay, up to half of the budget.
    """

    scenes: float = 0.25
    similarity: float = 0.8
    clusters: float = 0.5
    ratio: float = 0.4
    layer: int = 10
    adaptive: bool = False
    positions = "compact"
    reads_text = True
    video = True

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in (self.scenes, self.clusters, self.ratio)):
            raise ValueError(
                f"scenes={self.scenes}, clusters={self.clusters}, ratio={self.ratio}: choose shares above 0, "
                "up to 1"
            )

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {INPUT: min(tokens, round(keep / self.ratio)), scaled_layer(self.layer + 1, layers): keep}

    def cut_caches_from(self, layers: int) -> int | None:
        return 0

    def select(self, view: View, keep: int) -> Selection:
        if view.depth > INPUT:
            return self.asked(view, keep)
        rows = frames_of(view, "prunevid")
        newlines = newlines_of(view, len(view.hidden) if self.adaptive else keep)
        frames, keep = view.hidden[rows], keep - len(newlines)
        found = self.scenes_of(frames, keep)
        sizes = [size for scene in found for size in scene.sizes]
        counts = self.official(sizes) if self.adaptive else self.counts(sizes, keep)
        return merged_into(view, rows, newlines, *self.merged(frames, found, counts))

    def asked(self, view: View, keep: int) -> Selection:
        """Select tokens at the second stage."""
        assert view.inputs is not None and view.frame is not None  # set for videos in the decoder
        attention = view.attention(view.depth - 1, range(view.before, len(view.text)))
        newlines = newlines_of(view, len(view.hidden) if self.adaptive else keep)
        tokens = (view.frame >= 0).nonzero()[:, 0]
        places = view.grid[0] * view.grid[1]
        frames = view.inputs[: view.frames * places].view(view.frames, places, -1)
        part = self.part_of(self.scenes_of(frames, len(tokens)), view.index[tokens], places)
        sizes = part.bincount(minlength=1).tolist()
        if self.adaptive:
            counts = [int(self.ratio * size) for size in sizes]
            counts[0] += not any(counts)  # one token at least
        else:
            counts = self.counts(sizes, keep - len(newlines))
        kept = tokens[self.best(attention[..., tokens], part, counts)]
        return Selection(torch.cat([kept, newlines]).sort().values)

    @staticmethod
    def counts(sizes: Sequence[int], keep: int) -> list[int]:
        """Share `keep` tokens among parts of these sizes, in proportion."""
        return solved(lambda ratio: [int(size * ratio) for size in sizes], sizes, keep)

    def official(self, sizes: Sequence[int]) -> list[int]:
        """Return the official numbers of clusters for parts of these sizes."""
        return [size if size <= FEW else int(size * self.clusters) for size in sizes]

    def scenes_of(self, frames: Tensor, least: int) -> list[Segment]:
        """Return the windows of frames [F, n, C]; with a budget, they leave at least `least` tokens."""
        windows = self.windows(frames.float().mean(1))
        alike = [self.alike(frames[first : last + 1]) for first, last in windows]

        def found(threshold: float) -> list[Segment]:
            return [Segment(*ends, each > threshold) for ends, each in zip(windows, alike, strict=True)]

        def fits(threshold: float) -> bool:
            return sum(sum(scene.sizes) for scene in found(threshold)) >= least

        return found(self.similarity if self.adaptive else raised(self.similarity, torch.cat(alike), fits))

    def windows(self, frames: Tensor) -> list[tuple[int, int]]:
        """Return the first and last frame of every window, by the mean vectors [F, C] of the frames."""
        clusters = max(1, int(len(frames) * self.scenes))
        labels = smooth(density_peaks(frames, clusters, NEIGHBOURS)[1].tolist())
        return [(first, last - 1) for first, last, _ in runs(labels)]

    @staticmethod
    def alike(frames: Tensor) -> Tensor:
        """Return the mean cosine [n] between different frames [W, n, C] at each place; -inf for one frame."""
        count = len(frames)
        if count == 1:
            return torch.full_like(frames[0, :, 0], -torch.inf, dtype=torch.float32)
        unit = F.normalize(frames.float(), dim=-1).transpose(0, 1)
        return ((unit @ unit.mT).sum((1, 2)) - count) / (count * (count - 1))

    @staticmethod
    def merged(
        frames: Tensor, scenes: Sequence[Segment], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reduce frames [F, n, C] to `counts` tokens per part.

        Return indices [K] into F * n of the clusters' centres, values [K, C], and the output [F * n] that
        each token was merged into, -1 = none.
        """
        places, left, done = frames.shape[1], iter(counts), 0
        index, tokens = [torch.empty(0, dtype=torch.long, device=frames.device)], [frames[0, :0].float()]
        into = torch.full_like(frames[..., 0], -1, dtype=torch.long)
        for first, last, static in scenes:
            still, others = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            parts = [(first, last, still), *((frame, frame, others) for frame in range(first, last + 1))]
            for start, end, own in parts:
                if count := next(left):
                    points = frames[start : end + 1, own].float().mean(0)
                    centres = joined = torch.arange(count, device=own.device)
                    if count < len(own):
                        centres, joined = density_peaks(points, count, NEIGHBOURS)
                    index.append(own[centres] + start * places)
                    tokens.append(means(points, joined, count))
                    into[start : end + 1, own] = done + joined
                    done += count
        return torch.cat(index), torch.cat(tokens), into.flatten()

    @staticmethod
    def part_of(scenes: Sequence[Segment], index: Tensor, places: int) -> Tensor:
        """Return the part [N] of each token, by its index [N] into frames of `places` tokens."""
        number, start = torch.empty(scenes[-1].last + 1, places, dtype=torch.long, device=index.device), 0
        for first, last, static in scenes:
            for frame in range(first, last + 1):
                number[frame] = torch.where(static, start, start + 1 + frame - first)
            start += last - first + 2
        return number.flatten()[index]

    @staticmethod
    def best(attention: Tensor, part: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the ascending tokens of each part [N] with the largest attention [H, R, N]."""
        return best_of_each(attention.amax((0, 1)), part, part.new_tensor(counts))


def runs(labels: Sequence[int | None]) -> list[tuple[int, int, int | None]]:
    """Return start, end and label of all runs of equal labels."""
    found, start = [], 0
    for label, run in groupby(labels):
        end = start + len(list(run))
        found.append((start, end, label))
        start = end
    return found


def smooth(labels: Sequence[int]) -> list[int]:
    """Smooth the labels of frames: each label keeps only its longest runs of at least two frames.

    Other runs take the label of the longer neighbouring run, the left one of equals. All labels are 0 if no
    label has a run of two frames.
    """
    longest: dict[int | None, int] = {}
    for start, end, label in runs(labels):
        longest[label] = max(longest.get(label, 0), end - start)
    kept: list[int | None] = []
    for start, end, label in runs(labels):
        stays = end - start == longest[label] > 1
        kept += [label if stays else None] * (end - start)
    while (gap := next((run for run in runs(kept) if run[2] is None), None)) is not None:
        start, end, _ = gap
        beside = [(last - first, label) for first, last, label in runs(kept) if start == last or end == first]
        nearest = max(beside, key=lambda run: run[0])[1] if beside else 0
        kept[start:end] = [nearest] * (end - start)
    return [label for label in kept if label is not None]
