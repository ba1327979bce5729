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
    """A maximum spanning tree of n tokens, in the order in which it grows."""

    order: list[int]
    parent: list[int]  # the earlier token that each one is linked to
    link: list[float]  # and how alike they are; of the first, which has none, below all


@dataclass
class LLaVAScissor(Selector):
    """Merge connected groups of like tokens, first in every frame of a video, then in all of it.

    "LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs" (Sun et al., 2025,
    arXiv 2506.21862). Acts at the decoder's input; positions are contiguous. Tokens are linked if their
    cosine is above `threshold`; a connected group becomes its mean. The means of all frames are grouped in
    the same way. Every token of the video then joins the mean most like it.

    The official code has a threshold and no budget. Here it is solved for the budget, to 1/128, and the
    weakest links of the second step are cut until the count is exact. With `adaptive` the official threshold
    decides, whatever the budget.

    Departures: the code visits tokens in random order, and may lose some of a long chain and, of very many
    tokens, group some alone; here groups are exact. Newlines all stay, up to half of the budget.
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
        """`merged` at the threshold of which `keep` groups, or the fewest above, are left; then `keep`."""
        trees = [tree(cosines(frame)) for frame in frames]
        links = sorted(link for grown in trees for link in grown.link)

        def count(step: int) -> int:
            of_frames = bisect_right(links, step / STEPS)
            return of_frames if of_frames < keep else len(self.merged(frames, step / STEPS, trees)[0])

        step = bisect_left(range(STEPS + 1), keep, key=count)  # one step above 1 nothing is merged
        return self.merged(frames, step / STEPS, trees, keep)

    @staticmethod
    def merged(
        frames: Tensor, threshold: float, trees: list[Tree] | None = None, keep: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Groups of frames [F, n, C]: the token, of F * n, that leads each, and their means [K, C].

        `trees` are those of the frames, if known. With `keep` there are so many groups after the last step.
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
        """Means [K, C] of `tokens` [K, C] and of the points [N, C] most like each; which that is, [N]."""
        nearest = (F.normalize(points, dim=-1) @ F.normalize(tokens, dim=-1).T).argmax(1)
        size = nearest.bincount(minlength=len(tokens))[:, None]
        return tokens.index_add(0, nearest, points) / (1 + size), nearest


def spatial(frames: Tensor, threshold: float, trees: list[Tree] | None = None) -> tuple[Tensor, Tensor]:
    """Groups inside of frames [F, n, C]: the token, of F * n, that leads each, and their means [m, C]."""
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
    """Connected groups of points [n, C] with cosines `graph` [n, n]: the leader of each, and means [m, C].

    Links above `threshold` count, or those of the tree that leave `count` groups. A leader has the most
    links of its group, and a lower index than others with as many; groups stand in the order of leaders.
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
    """Cosines [n, n] of points [n, C]."""
    unit = F.normalize(points, dim=-1)
    return unit @ unit.T


def tree(graph: Tensor) -> Tree:
    """Prim's algorithm on cosines [n, n]."""
    best, parent = torch.full_like(graph[0], -torch.inf), torch.zeros_like(graph[0], dtype=torch.long)
    taken = torch.zeros_like(parent, dtype=torch.bool)
    order: list[Tensor] = []
    link: list[Tensor] = []
    for _ in range(len(graph)):
        # [1] and not a number, for which a GPU would be waited for.
        point = best.masked_fill(taken, -torch.inf).argmax(keepdim=True) if order else parent[:1]
        taken = taken.index_fill(0, point, True)
        order.append(point)
        link.append(best[point])
        nearer = (graph[point][0] > best) & ~taken
        best = torch.where(nearer, graph[point][0], best)
        parent = torch.where(nearer, point, parent)
    index = torch.cat(order)
    return Tree(index.tolist(), parent[index].tolist(), torch.cat(link).tolist())
