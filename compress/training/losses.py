"""Training losses of the compressor (paper 3.3): a classification loss plus a separation loss.

Shapes: `logits`, `targets` and `valid` are [B, N], one entry per visual token of B samples. Targets are in
[0, 1] (hard labels are 0 and 1). Entries where `valid` is False are padding and are ignored.

A batch may be computed in parts, on several devices or one after the other, with the same loss. Statistics of
the whole batch are in its tally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evosearch.registry import unknown

NORMALISERS = ("nonempty", "bins")


class TrainingLoss(nn.Module):
    """A loss that is a sum over samples, given the `tally` of their batch.

    A tally is a vector of integers [K]; the tally of a batch is the sum of those of its parts. `forward`
    computes the loss of a batch in one part.
    """

    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Return the contribution of these samples to the batch's tally."""
        raise NotImplementedError

    def advance(self, tally: Tensor) -> None:
        """Update running statistics, if any, with a batch: once per batch, before its parts."""

    def part(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        """Return the contribution of these samples to the loss of the batch with this `tally`."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        tally = self.tally(logits, targets, valid)
        self.advance(tally)
        return self.part(logits, targets, valid, tally)


class GHM(TrainingLoss):
    """Gradient harmonised cross-entropy in unit-region form (Li et al., AAAI 2019; EvoComp eq. 3 and 4).

    The range [0, 1] of the gradient norm g = |p - y| is divided into `bins` regions. The weight of a token is
    inversely proportional to the number of tokens in its region. `normalise_by="nonempty"` divides the sum by
    the number of occupied regions, as the code of GHM's authors does; "bins" divides it by the number of all
    regions, as EvoComp's equation does. "nonempty" makes this loss larger by bins / occupied regions, which
    lowers the relative weight of other terms: see `make_objective`. `momentum` > 0 averages the counts over
    successive batches. As in the authors' code, the average starts at zero without bias correction, and empty
    regions do not decay.
    """

    counts: Tensor  # [bins], running average; unused if momentum is 0

    def __init__(self, bins: int = 100, momentum: float = 0.0, normalise_by: str = "nonempty"):
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins={bins}: choose at least 1 region")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: choose a value in [0, 1)")
        if normalise_by not in NORMALISERS:
            raise ValueError(f"normalise_by={normalise_by!r}: choose one of {', '.join(NORMALISERS)}")
        self.bins, self.momentum, self.normalise_by = bins, momentum, normalise_by
        self.register_buffer("counts", torch.zeros(bins))

    @torch.no_grad()
    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Return the number of tokens [bins] with a gradient norm in each region."""
        return torch.bincount(self._regions(logits, targets)[valid], minlength=self.bins)

    @torch.no_grad()
    def advance(self, tally: Tensor) -> None:
        if self.momentum:
            moved = self.momentum * self.counts + (1 - self.momentum) * tally.to(self.counts)
            self.counts = torch.where(tally > 0, moved, self.counts)

    @torch.no_grad()
    def weights(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        """Return the weights [B, N] of the tokens, 0 where invalid, in the batch with this tally."""
        density = self.counts if self.momentum else tally.to(self.counts)
        regions = (tally > 0).sum().clamp(min=1) if self.normalise_by == "nonempty" else self.bins
        weights = tally.sum().clamp(min=1) / (density * regions)
        return torch.where(valid, weights[self._regions(logits, targets)], 0).to(logits.dtype)

    def part(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        weights = self.weights(logits, targets, valid, tally)
        loss = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
        return loss / tally.sum().clamp(min=1)

    def _regions(self, logits: Tensor, targets: Tensor) -> Tensor:
        norm = (logits.sigmoid() - targets).abs()
        return (norm * self.bins).long().clamp(0, self.bins - 1)


class Focal(TrainingLoss):
    """Focal loss (Lin et al., ICCV 2017): easy tokens are down-weighted by |p - y|^gamma.

    `normalise_by` divides the sum by the number of "tokens", or of "positives" (targets above one half), as
    object detectors do.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, normalise_by: str = "tokens"):
        super().__init__()
        if normalise_by not in ("tokens", "positives"):
            raise ValueError(f"normalise_by={normalise_by!r}: choose tokens or positives")
        self.alpha, self.gamma, self.normalise_by = alpha, gamma, normalise_by

    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        counted = valid if self.normalise_by == "tokens" else valid & (targets > 0.5)
        return counted.sum()[None]

    def part(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        balance = self.alpha * targets + (1 - self.alpha) * (1 - targets)
        damping = (logits.sigmoid() - targets).abs() ** self.gamma
        loss = balance * damping * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return loss[valid].sum() / tally[0].clamp(min=1)


class CrossEntropy(TrainingLoss):
    """Binary cross-entropy, averaged over tokens."""

    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        return valid.sum()[None]

    def part(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, targets, valid.to(logits), reduction="sum")
        return loss / tally[0].clamp(min=1)


class Listwise(TrainingLoss):
    """Cross-entropy between softmax(logits) and the targets scaled to sum to one, per sample (ours).

    It trains the ranking within a sample, which alone determines a top-k selection. A sample with few
    relevant tokens has the same weight as one with many. Samples without a positive target are ignored.
    """

    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        return ((targets * valid).sum(-1) > 0).sum()[None]

    def part(self, logits: Tensor, targets: Tensor, valid: Tensor, tally: Tensor) -> Tensor:
        log_share = logits.masked_fill(~valid, -torch.inf).log_softmax(-1).masked_fill(~valid, 0)
        targets = targets * valid
        mass = targets.sum(-1)
        loss = -(targets * log_share).sum(-1) / mass.clamp(min=torch.finfo(mass.dtype).tiny)
        return loss.sum() / tally[0].clamp(min=1)


def cosine_loss(hidden: Tensor, kept: Tensor, valid: Tensor, samples: Tensor | None = None) -> Tensor:
    """Mean cosine similarity of all (retained, discarded) pairs of a sample, averaged over the batch (eq. 5).

    hidden [B, N, D] are the visual representations that enter the classifier, kept [B, N] is the label. The
    mean over pairs is the dot product of the two mean unit vectors, so it costs O(N D). It is in [-1, 1];
    lower values separate better. A sample without retained or without discarded tokens contributes 0.
    `samples` is the number of samples in the whole batch. Default: B.
    """
    unit = F.normalize(hidden, dim=-1)

    def centre(members: Tensor) -> Tensor:  # [B, N] -> [B, D]
        share = members.to(unit)
        return (share[:, None] @ unit).squeeze(1) / share.sum(-1, keepdim=True).clamp(min=1)

    each = (centre(kept & valid) * centre(~kept & valid)).sum(-1)
    return each.sum() / (len(each) if samples is None else samples.clamp(min=1))


class Objective(nn.Module):
    """The training loss: `classification` on the targets, plus `weight` times the cosine loss.

    It can be computed in parts like a `TrainingLoss`; the last entry of its tally is the number of samples.
    """

    def __init__(self, classification: TrainingLoss, weight: float):
        super().__init__()
        self.classification, self.weight = classification, weight

    def tally(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        counted = self.classification.tally(logits, targets, valid)
        return torch.cat([counted, counted.new_tensor([len(logits)])])

    def advance(self, tally: Tensor) -> None:
        self.classification.advance(tally[:-1])

    def part(
        self, logits: Tensor, hidden: Tensor, targets: Tensor, kept: Tensor, valid: Tensor, tally: Tensor
    ) -> Tensor:
        """Return a scalar; targets [B, N] train the classifier, kept [B, N] bool defines the separation."""
        loss = self.classification.part(logits, targets, valid, tally[:-1])
        return loss + self.weight * cosine_loss(hidden, kept, valid, tally[-1]) if self.weight else loss

    def forward(self, logits: Tensor, hidden: Tensor, targets: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of a batch in one part."""
        tally = self.tally(logits, targets, valid)
        self.advance(tally)
        return self.part(logits, hidden, targets, kept, valid, tally)


@dataclass(frozen=True)
class LossKind:
    summary: str
    classification: str
    cosine: bool


LOSSES: dict[str, LossKind] = {
    "ghm+cos": LossKind("gradient harmonised cross-entropy and cosine separation: the paper's", "ghm", True),
    "ghm": LossKind("gradient harmonised cross-entropy alone (ablation)", "ghm", False),
    "ce+cos": LossKind("cross-entropy and cosine separation (ablation)", "ce", True),
    "focal+cos": LossKind("focal loss and cosine separation (ablation)", "focal", True),
    "ce": LossKind("cross-entropy alone (ablation)", "ce", False),
    "list": LossKind("softmax cross-entropy over the tokens of each sample (ours)", "list", False),
    "list+cos": LossKind("softmax cross-entropy over the tokens, and cosine separation (ours)", "list", True),
}


def make_objective(
    name: str = "ghm+cos",
    *,
    bins: int = 100,
    momentum: float = 0.0,
    normalise_by: str = "nonempty",
    lambda_cos: float = 1.0,
) -> Objective:
    """Build the objective `name` of LOSSES; `lambda_cos` weighs the cosine, the other options are GHM's.

    With GHM, the effect of `lambda_cos` depends on `normalise_by`. The paper's equation divides GHM by the
    number of all regions. The default divides it by the number of occupied regions and so makes it larger,
    while the cosine term is unchanged: `lambda_cos=1` has the effect of occupied / bins in the equation.
    `normalise_by="bins"` gives the equation itself.
    """
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    kind = LOSSES[name]
    classifications: dict[str, Callable[[], TrainingLoss]] = {
        "ghm": partial(GHM, bins, momentum, normalise_by),
        "focal": Focal,
        "ce": CrossEntropy,
        "list": Listwise,
    }
    return Objective(classifications[kind.classification](), lambda_cos if kind.cosine else 0.0)
