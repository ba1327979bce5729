from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.pool import means
from baselines.videos import frames_of, merged_into, newlines_of
from compress.base import Selection, Selector, View

STEPS = 128  # thresholds tried from 0 to 1


class Tree(NamedTuple):
    """A maximum spanning tree of n tokens, in order of growth."""

    order: list[int]
    parent: list[int]  # the earlier token that each token is linked to
    link: list[float]  # the cosine of the link; -inf for the first token, which has none


@dataclass
class LLaVAScissor(Selector):
    """Merge connected groups of similar tokens, first within every frame, then over the whole video.

    "LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs" (Sun et al., 2025,
    arXiv 2506.21862). Acts at the decoder's input; positions are contiguous. Tokens are linked if their
    cosine is above `threshold`; a connected group is replaced by its mean. The means of all frames are
    grouped in the same way. Every token of the video is then merged into the most similar mean.

    The official code has a threshold and no budget. Here the threshold is solved for the budget, to 1/128,
    and the weakest links of the second step are cut until the count is exact. With `adaptive` the official
    threshold decides and the budget is ignored.

    Departures: the code visits tokens in random order, may lose some tokens of a long chain, and may leave
    some ungrouped if there are very many; here groups are exact. All newlines stay, up to half of the budget.
    """

    threshold: float = 0.95
    adaptive: bool = False
    positions = "compact"
    video = True

    def select(self, view: View, keep: int) -> Selection:
        rows = frames_of(view, "llava-scissor")
        newlines = newlines_of(view, len(view.hidden) if self.adaptive else keep)
        frames = view.hidden[rows].float()
        if self.adaptive:
            leaders, tokens = self.merged(frames, self.threshold)
        else:
            leaders, tokens = self.budgeted(frames, keep - len(newlines))
        tokens, nearest = self.joined(frames.flatten(0, 1), tokens)
        return merged_into(view, rows, newlines, leaders, tokens, nearest)

    def budgeted(self, frames: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Merge at the lowest threshold that leaves at least `keep` groups, then reduce them to `keep`."""
        trees = [tree(cosines(frame)) for frame in frames]
        links = sorted(link for grown in trees for link in grown.link)

        def count(step: int) -> int:
            of_frames = bisect_right(links, step / STEPS)
            return of_frames if of_frames < keep else len(self.merged(frames, step / STEPS, trees)[0])

        step = bisect_left(range(STEPS + 1), keep, key=count)  # STEPS + 1 merges nothing
        return self.merged(frames, step / STEPS, trees, keep)

    @staticmethod
    def merged(
        frames: Tensor, threshold: float, trees: list[Tree] | None = None, keep: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Group the tokens of frames [F, n, C]: return the leader of each group, in F * n, and means [K, C].

        `trees` are those of the frames, if known. With `keep` the last step leaves exactly `keep` groups.
        """
        leaders, tokens = spatial(frames, threshold, trees)
        graph = cosines(tokens)
        grown = tree(graph)
        if keep is not None:
            threshold = sorted(grown.link)[keep - 1]
        first, values = grouped(tokens, graph, grown, threshold, keep)
        return leaders[first], values

    @staticmethod
    def joined(points: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Average `tokens` [K, C] with the points [N, C] nearest to each; return means and assignment [N]."""
        nearest = (F.normalize(points, dim=-1) @ F.normalize(tokens, dim=-1).T).argmax(1)
        size = nearest.bincount(minlength=len(tokens))[:, None]
        return tokens.index_add(0, nearest, points) / (1 + size), nearest


def spatial(frames: Tensor, threshold: float, trees: list[Tree] | None = None) -> tuple[Tensor, Tensor]:
    """Group tokens within frames [F, n, C]: return the leader of each group, in F * n, and means [m, C]."""
    leaders, tokens = [], []
    for number, frame in enumerate(frames):
        graph = cosines(frame)
        first, values = grouped(frame, graph, trees[number] if trees else tree(graph), threshold)
        leaders.append(first + number * len(frame))
        tokens.append(values)
    return torch.cat(leaders), torch.cat(tokens)


def grouped(
    points: Tensor, graph: Tensor, grown: Tree, threshold: float, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """Group connected points [n, C] with cosines `graph` [n, n]: return leaders [m] and means [m, C].

    Links above `threshold` connect, or the strongest links of the tree that leave `count` groups. The leader
    is the point with the most links in its group, among equals the one with the lowest index. Groups are
    sorted by leader.
    """
    weakest = sorted(range(len(grown.link)), key=grown.link.__getitem__)
    if count is None:
        count = sum(link <= threshold for link in grown.link)
    starts, label = set(weakest[:count]), [0] * len(points)
    for number, (point, parent) in enumerate(zip(grown.order, grown.parent, strict=True)):
        label[point] = point if number in starts else label[parent]
    labels = torch.tensor(label, device=points.device).unique(return_inverse=True)[1]
    links = (graph > threshold).sum(1)
    order = links.sort(descending=True, stable=True).indices.tolist()
    group = labels.tolist()
    leader: dict[int, int] = {}
    for point in order:
        leader.setdefault(group[point], point)
    ranked = sorted(leader, key=leader.__getitem__)
    at = torch.tensor(ranked, device=points.device)
    first = torch.tensor([leader[each] for each in ranked], device=points.device)
    return first, means(points, labels, len(leader))[at]


def cosines(points: Tensor) -> Tensor:
    """Return the cosines [n, n] of points [n, C]."""
    unit = F.normalize(points, dim=-1)
    return unit @ unit.T


def tree(graph: Tensor) -> Tree:
    """Build the maximum spanning tree of cosines [n, n] with Prim's algorithm."""
    best, parent = torch.full_like(graph[0], -torch.inf), torch.zeros_like(graph[0], dtype=torch.long)
    taken = torch.zeros_like(parent, dtype=torch.bool)
    order: list[Tensor] = []
    link: list[Tensor] = []
    for _ in range(len(graph)):
        # A tensor [1]: a Python number would synchronise with the GPU.
        point = best.masked_fill(taken, -torch.inf).argmax(keepdim=True) if order else parent[:1]
        taken = taken.index_fill(0, point, True)
        order.append(point)
        link.append(best[point])
        nearer = (graph[point][0] > best) & ~taken
        best = torch.where(nearer, graph[point][0], best)
        parent = torch.where(nearer, point, parent)
    index = torch.cat(order)
    return Tree(index.tolist(), parent[index].tolist(), torch.cat(link).tolist())
