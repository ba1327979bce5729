"""Label kinds: each selects the tokens to keep from one sample and a budget of evaluations.

A new kind is a class and an entry in `KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evosearch import GROUPERS, STRATEGIES, DpcKnn, Grouper, Grouping, Proposals, Result, pick, propose

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """One sample to label, for a kind that requests losses without computing them itself.

    Its methods are generators, for `yield from`: many samples advance together and share batches.
    """

    visual: Floats  # [N, D] aligned embeddings
    anchors: Floats  # [V, D] the LLM's input embeddings
    grid: tuple[int, int]
    keep: int  # G, tokens in the label
    grouper: str
    strategy: str | None  # None for kinds that do not search
    evaluations: int
    seed: int
    # Function that finds the anchors nearest to vectors [N, D], if a device is faster.
    nearest: Callable[[Floats], Ints] | None = None

    def groups(self) -> Grouping:
        """The search space: exactly `keep` groups."""
        return self._grouper()(self.visual)

    def partition(self) -> Grouping:
        """All groups that the grouper finds, in any number."""
        return self._grouper().partition(self.visual)

    def _grouper(self) -> Grouper:
        offered = {
            "groups": self.keep, "anchors": self.anchors, "grid": self.grid, "seed": self.seed,
            "nearest": self.nearest,
        }  # fmt: skip
        return pick(GROUPERS, self.grouper, "grouper", **offered)

    def search(self) -> Proposals[Result]:
        """Run the search with the named strategy; the result includes the whole archive."""
        assert self.strategy is not None
        strategy = pick(STRATEGIES, self.strategy, "strategy")
        return propose(self.groups(), strategy, seed=self.seed, budget=self.evaluations)

    def losses(self, kept: Ints) -> Proposals[Floats]:
        """Losses [P] of kept indices [P, K], rows ascending."""
        return np.asarray((yield kept), np.float64)

    def single_loss(self, kept: Ints) -> Proposals[float]:
        return float((yield from self.losses(kept[None]))[0])


@dataclass(frozen=True, eq=False)
class ChosenMask:
    """A label.

    `before` is the mean loss of the search's first batch, the loss of a random candidate; `after` is the
    label's.

    `evaluations` counts every candidate whose loss was computed, including the label itself.
    """

    kept: Ints  # [G] ascending
    before: float
    after: float
    evaluations: int
    score: Floats | None = None  # [N] higher = more worth keeping


class Kind(ABC):
    """A way to label. Subclasses are dataclasses whose fields are options (`attribution:ridge=3`).

    `choose` is a generator: it gets losses from `yield from problem.search()`, `.losses(kept)` or
    `.single_loss(kept)`, and returns its choice.
    """

    # Default strategy of the search; None: the kind does not search.
    strategy: ClassVar[str | None] = "evolution"

    @abstractmethod
    def choose(self, problem: Problem) -> Proposals[ChosenMask]: ...


@dataclass(frozen=True)
class Best(Kind):
    """The best mask of the search; the paper's label."""

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        found = yield from problem.search()
        return ChosenMask(found.indices, found.logbook[0]["mean"], found.loss, found.evaluations)


@dataclass(frozen=True)
class RandomPick(Kind):
    """A random token of each group, without a search; the paper's ablation."""

    strategy: ClassVar[str | None] = None

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        space = problem.groups()
        kept = space.indices(space.random(Random(problem.seed), 1))[0]
        loss = yield from problem.single_loss(kept)
        return ChosenMask(kept, loss, loss, 1)


@dataclass(frozen=True)
class ClusterCentres(Kind):
    """The centres of DPC-KNN clusters, without a search; the paper's ablation."""

    neighbours: int = 5
    strategy: ClassVar[str | None] = None

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        kept = np.sort(DpcKnn(problem.keep, self.neighbours, problem.seed).clusters(problem.visual).centres)
        loss = yield from problem.single_loss(kept)
        return ChosenMask(kept, loss, loss, 1)


@dataclass(frozen=True)
class Elite(Kind):
    """The tokens most frequent among the best candidates of the whole search (ours).

    `share` is the share of all evaluated candidates that form the elite. The score is the frequency among
    them minus that among all candidates. A token that is alone in its group is in every candidate, and
    therefore gains nothing.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: choose a share of the candidates in (0, 1]")

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        found = yield from problem.search()
        kept_by = inclusion(found.archive.indices, len(problem.visual))
        elite = np.argsort(found.archive.losses, kind="stable")[: max(1, round(self.share * len(kept_by)))]
        return (yield from _by_score(kept_by[elite].mean(0) - kept_by.mean(0), found, problem))


@dataclass(frozen=True)
class Attribution(Kind):
    """The tokens whose presence lowers the loss most, by ridge regression over all evaluated masks (ours).

    Every evaluation gives information about every token, while the best mask is a single sample. `ridge` is
    the penalty; by default it is chosen per sample by generalised cross-validation.
    """

    ridge: float | None = None
    strategy: ClassVar[str | None] = "uniform"  # masks without restriction by groups

    def __post_init__(self) -> None:
        if self.ridge is not None and self.ridge <= 0:
            raise ValueError(
                f"ridge={self.ridge}: choose a penalty above 0, or none to have it chosen per sample"
            )

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        found = yield from problem.search()
        kept_by = inclusion(found.archive.indices, len(problem.visual))
        return (
            yield from _by_score(-ridge_weights(kept_by, found.archive.losses, self.ridge), found, problem)
        )


@dataclass(frozen=True)
class GroupAttribution(Kind):
    """Attribution to semantic groups, by regression on random sets of groups; core tokens first (ours).

    Tokens of one group carry similar information, so removing a single token has little effect and its
    attribution is mostly noise. Removing a group has an effect, and there are few groups. Every candidate
    shows a random half of the grouper's groups (all that it finds, not exactly G), with tokens taken in turn
    until G are kept. Ridge regression of the loss on "some token of the group was kept" gives each group's
    worth. The r-th token of a group, ordered by distance from the group's mean, scores (worth + floor) / r: a
    second token of a group adds less than a first. `floor` is the minimum worth, as a share of the best
    group's, that even a group without effect has, so that the image stays covered.
    """

    floor: float = 0.1
    strategy: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"floor={self.floor}: choose a worth above 0")

    def choose(self, problem: Problem) -> Proposals[ChosenMask]:
        groups = [np.array(group) for group in problem.partition().groups]
        rng = np.random.default_rng(problem.seed)
        shown = np.stack(
            [group_sample(groups, len(problem.visual), problem.keep, rng) for _ in range(problem.evaluations)]
        )
        losses = yield from problem.losses(shown)
        kept_by = inclusion(shown, len(problem.visual))
        present = np.stack([kept_by[:, group].max(1) for group in groups], 1)
        worth = np.maximum(-ridge_weights(present, losses), 0)
        least = self.floor * (worth.max() or 1.0)
        score = np.zeros(len(problem.visual))
        for group, value in zip(groups, worth, strict=True):
            away = ((problem.visual[group] - problem.visual[group].mean(0)) ** 2).sum(1)
            score[group[np.argsort(away, kind="stable")]] = (value + least) / np.arange(1, len(group) + 1)
        kept = np.sort(np.argsort(-score, kind="stable")[: problem.keep])
        after = yield from problem.single_loss(kept)
        return ChosenMask(kept, float(losses[:48].mean()), after, len(shown) + 1, score)


def group_sample(groups: list[Ints], items: int, keep: int, rng: np.random.Generator) -> Ints:
    """`keep` sorted items: from a random half of the groups, in turn; other items fill the rest."""
    chosen = [
        rng.permutation(groups[g]).tolist() for g in rng.permutation(len(groups)) if rng.random() < 0.5
    ][:keep]
    taken: list[int] = []
    while len(taken) < keep and any(chosen):
        for group in chosen:
            if group and len(taken) < keep:
                taken.append(group.pop())
    rest = np.setdiff1d(np.arange(items), taken)
    return np.sort([*taken, *rng.permutation(rest)[: keep - len(taken)]]).astype(np.int64)


def inclusion(indices: Ints, items: int) -> NDArray[np.float64]:
    """Convert kept indices [P, K] to a matrix of zeros and ones [P, N]."""
    matrix = np.zeros((len(indices), items))
    np.put_along_axis(matrix, indices, 1.0, axis=1)
    return matrix


def ridge_weights(features: Floats, values: Floats, penalty: float | None = None) -> NDArray[np.float64]:
    """Weights [N] of a ridge regression with intercept of `values` [P] on `features` [P, N].

    By default, the penalty is the one of a logarithmic grid with the lowest generalised cross-validation
    error (Golub, Heath and Wahba, 1979).
    """
    centred = features - features.mean(0)
    target = values - values.mean()
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    projected, power = left.T @ target, singular**2

    def error(candidate: float) -> float:
        shrink = power / (power + candidate)
        residual = target @ target - ((2 - shrink) * shrink * projected**2).sum()
        return float(residual / max(len(target) - 1 - shrink.sum(), 1e-9) ** 2)

    chosen = penalty if penalty is not None else min(np.logspace(-1, 4, 26).tolist(), key=error)
    weights: NDArray[np.float64] = right.T @ (singular / (power + chosen) * projected)
    return weights


def _by_score(score: NDArray[np.float64], found: Result, problem: Problem) -> Proposals[ChosenMask]:
    kept = np.sort(np.argsort(-score, kind="stable")[: problem.keep])
    after = yield from problem.single_loss(kept)
    return ChosenMask(kept, found.logbook[0]["mean"], after, found.evaluations + 1, score)


KINDS: dict[str, type[Kind]] = {
    "best": Best,
    "random": RandomPick,
    "dpc-knn": ClusterCentres,
    "elite": Elite,
    "attribution": Attribution,
    "group-attribution": GroupAttribution,
}
