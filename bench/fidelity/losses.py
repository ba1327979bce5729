"""Comparison of GHM-C with open-mmlab/mmdetection, step by step; of focal and cosine loss with formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.fidelity.cases import Case
from compress.training.losses import GHM, Focal, cosine_loss


def ghmc(case: Case) -> dict[str, Tensor]:
    loss_of, twin = (GHM(case.value("bins"), case.value("momentum")) for _ in range(2))
    found: dict[str, list[Tensor]] = {"weights": [], "loss": [], "grad_logits": [], "acc_sum_after": []}
    for given, targets, valid in zip(case["logits"], case["targets"], case["valid"] > 0, strict=True):
        logits = given.clone().requires_grad_()
        tally = twin.tally(logits, targets, valid)
        twin.advance(tally)
        found["weights"].append(twin.weights(logits, targets, valid, tally))
        loss = loss_of(logits, targets, valid)
        loss.backward()
        assert logits.grad is not None
        found["loss"].append(loss.detach())
        found["grad_logits"].append(logits.grad)
        found["acc_sum_after"].append(loss_of.counts.clone())
    return {name: torch.stack(values) for name, values in found.items()}


def formulas(case: Case) -> dict[str, Tensor]:
    logits, labels = case["logits"][None], case["labels"][None]
    alpha, gamma = case.value("focal_alpha"), case.value("focal_gamma")
    everything = torch.ones_like(labels, dtype=torch.bool)
    return {
        "cosine_loss": cosine_loss(case["representations"][None], labels > 0, everything),
        "focal_mean": Focal(alpha, gamma)(logits, labels, everything),
        "focal_sum_over_num_positives": Focal(alpha, gamma, "positives")(logits, labels, everything),
    }
