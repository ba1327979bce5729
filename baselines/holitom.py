from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.peaks import density_peaks
from baselines.videos import Counts, cosine, frames_of, merged_into, newlines_of, raised, solved
from compress.base import INPUT, Selection, Selector, View, scaled_layer, top_k

LAYERS = 28  # of the paper's decoder, to which `stage` refers

Window = tuple[int, int]  # first and last frame


@dataclass
class HoliTom(Selector):
    """Merge the static parts of a video, prune the rest, and merge again inside the decoder.

    "HoliTom: Holistic Token Merging for Fast Video Large Language Models" (Shao et al., NeurIPS 2025).
    1. At the decoder's input, frames are divided into windows so that as many tokens as possible are
       redundant: a place is static in a window if the similarity of neighbouring frames at this place exceeds
       `similarity`. Static places are averaged over the window and merged into cluster centres, whose own
       weight is `weight`. Of the other tokens, those with the most attention in the tower (`layer`) stay.
       Windows follow each other, with static tokens first.
    2. Before decoder layer `stage` of 28, a share `ratio` of the tokens stays by the attention of the last
       prompt token. Every other token is merged into the most similar kept one, as (old + new) / 2.

    The share of tokens that static places and others keep is solved for the budget. `window` is the largest
    number of frames in a window.

    Departures: if so many places are static that the budget cannot be spent, `similarity` is raised until it
    can. Positions are contiguous at both stages, officially at the first only. The noise that the code adds
    to densities is off. All newlines stay at the first stage, up to half of the budget. Contextual tokens
    within frames, with which the released code fails, are left out.
    """

    similarity: float = 0.8
    weight: float = 0.6
    neighbours: int = 7
    window: int = 1024
    ratio: float = 0.5
    stage: int = 18
    layer: int = -1
    positions = "compact"
    reads_text = True
    cls = "received"
    video = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}: choose a share of the tokens above 0, up to 1")
        if self.window < 1 or self.neighbours < 1:
            raise ValueError(f"window={self.window}, neighbours={self.neighbours}: choose 1 or more of each")

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        first = min(tokens, round(keep / self.ratio))
        return {INPUT: first, scaled_layer(self.stage, layers, LAYERS): keep}

    def select(self, view: View, keep: int) -> Selection:
        if view.depth > INPUT:
            attention = view.attention(view.depth - 1, [-1])[:, 0].mean(0)
            return Selection(*self.folded(attention, view.hidden, keep))
        rows, newlines = frames_of(view, "holitom"), newlines_of(view, keep)
        keep -= len(newlines)
        frames, attention = view.hidden[rows], view.received(self.layer).mean(0)[rows]
        alike = cosine(frames[:-1], frames[1:])
        windows, static = self.fitting(alike, frames[..., 0].numel() - keep)
        sizes = self.sizes(windows, static, frames.shape[1])
        counts = solved(lambda ratio: self.counts(windows, sizes, ratio), sizes, keep)
        merged = self.merged(frames, attention, windows, static, counts)
        return merged_into(view, rows, newlines, *merged)

    def fitting(self, alike: Tensor, most: int) -> tuple[list[Window], list[Tensor]]:
        """Return windows with at most `most` redundant tokens, and the static places [n] of each.

        alike [F - 1, n] is the similarity of neighbouring frames. The threshold is `similarity`, or the
        lowest of the values above it that satisfies the limit.
        """
        lowest = raised(
            self.similarity, alike, lambda threshold: redundant(*self.windows(alike > threshold)) <= most
        )
        return self.windows(alike > lowest)

    def windows(self, same: Tensor) -> tuple[list[Window], list[Tensor]]:
        """Return the windows with the most redundant tokens, and the static places [n] of each.

        same [F - 1, n] marks the places that are similar in a frame and the next one. A window of one frame
        has no static places.
        """
        same = same.cpu()
        best, first = [0], list[int]()
        for last in range(len(same) + 1):
            value, start = best[last], last
            static = torch.ones_like(same[:1]).all(0)
            for begin in range(last - 1, max(-1, last - self.window), -1):
                static = static & same[begin]
                total = best[begin] + int(static.sum()) * (last - begin)
                if total > value:
                    value, start = total, begin
            best.append(value)
            first.append(start)
        windows, last = list[Window](), len(same)
        while last >= 0:
            windows.insert(0, (first[last], last))
            last = first[last] - 1
        nothing = same.new_zeros(same.shape[1])
        return windows, [same[start:end].all(0) if end > start else nothing for start, end in windows]

    @staticmethod
    def sizes(windows: list[Window], static: list[Tensor], places: int) -> list[int]:
        """Return the sizes of all parts before pruning: per window the static one, then one per frame."""
        sizes = []
        for (start, end), still in zip(windows, static, strict=True):
            count = int(still.sum())
            sizes += [count, *([places - count] * (end - start + 1))]
        return sizes

    @staticmethod
    def counts(windows: list[Window], sizes: Counts, ratio: float) -> list[int]:
        """Return the tokens kept in all parts: rounded to nearest for static parts, up for the others."""
        counts = [ceil(size * ratio) for size in sizes]
        at = 0
        for start, end in windows:
            counts[at] = round(sizes[at] * ratio)
            at += end - start + 2
        return counts

    def merged(
        self, frames: Tensor, attention: Tensor, windows: list[Window], static: list[Tensor], counts: Counts
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reduce frames [F, n, C] with attention [F, n] to `counts` tokens per part.

        Return indices [K] into F * n, values [K, C], and the output [F * n] that each token was merged into,
        -1 = none.
        """
        places, left = frames.shape[1], iter(counts)
        index, tokens = [torch.empty(0, dtype=torch.long, device=frames.device)], [frames[0, :0]]
        into = torch.full_like(attention, -1, dtype=torch.long)
        done = 0
        for (start, end), still in zip(windows, static, strict=True):
            still = still.to(frames.device)
            own, count = still.nonzero()[:, 0], next(left)
            if count:
                means = frames[start : end + 1, own].float().mean(0)
                values, centres, joined = self.clustered(means, count)
                index.append(own[centres] + start * places)
                tokens.append(values.to(frames.dtype))
                into[start : end + 1, own] = done + joined
                done += count
            others = (~still).nonzero()[:, 0]
            for frame in range(start, end + 1):
                best = others[top_k(attention[frame, others], next(left))]
                index.append(best + frame * places)
                tokens.append(frames[frame, best])
                into[frame, best] = done + torch.arange(len(best), device=best.device)
                done += len(best)
        return torch.cat(index), torch.cat(tokens), into.flatten()

    def clustered(self, points: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cluster points [n, C]: return `count` values, ascending centre indices, and clusters [n]."""
        centres = density_peaks(points, count, min(self.neighbours, count))[0].sort().values
        apart = torch.cdist(points, points[centres], compute_mode="donot_use_mm_for_euclid_dist")
        joined = apart.argmin(1)
        joined[centres] = torch.arange(count, device=points.device)
        members = F.one_hot(joined, count).to(points).index_fill(0, centres, 0)  # [n, count]
        size = members.sum(0)[:, None]
        mean = members.T @ points / size.clamp(min=1)
        own = points[centres]
        return torch.where(size > 0, self.weight * own + (1 - self.weight) * mean, own), centres, joined

    @staticmethod
    def folded(attention: Tensor, hidden: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ascending indices of the `keep` tokens with the most attention [N], values, and targets.

        The targets [N] are the outputs that each token of hidden [N, C] is merged into. A pruned token is
        merged into the most similar kept one, in order, as (old + new) / 2.
        """
        kept = top_k(attention, keep)
        dropped = torch.ones_like(attention, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
        unit = F.normalize(hidden.float(), dim=-1)
        nearest = (unit[dropped] @ unit[kept].T).argmax(1)
        joins = F.one_hot(nearest, keep)
        later = joins.sum(0) - joins.cumsum(0)  # [dropped, keep]
        weight = 0.5 ** (later.gather(1, nearest[:, None]) + 1).float()
        tokens = 0.5 ** joins.sum(0)[:, None].float() * hidden[kept].float()
        tokens = tokens.index_add(0, nearest, weight * hidden[dropped].float())
        into = torch.empty_like(attention, dtype=torch.long)
        into[kept], into[dropped] = torch.arange(keep, device=kept.device), nearest
        return kept, tokens.to(hidden.dtype), into


def redundant(windows: list[Window], static: list[Tensor]) -> int:
    """Return the number of tokens that averaging of static places saves."""
    return sum(int(still.sum()) * (end - start) for (start, end), still in zip(windows, static, strict=True))
