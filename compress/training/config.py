"""Settings of the training of a compressor, with presets: the paper's for each model, and ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from compress.keep import MOST
from compress.plain import to_plain
from compress.training.examples import Target
from compress.training.losses import Objective, make_objective
from evosearch.registry import cut


@dataclass(frozen=True)
class TrainConfig:
    """Training settings. The defaults are the paper's, except for a batch size that suits small data sets.

    `loss` is a name in LOSSES. `lambda_cos` weighs its cosine term; `bins`, `momentum` and `normalise_by` are
    options of GHM. `normalise_by` also changes the relative weight of the cosine term (see
    `compress.training.losses.make_objective`). `target` is the training target of a token: whether the label
    keeps it ("label"), its score ("score"), or its lead over the best token left out ("lead"); the last two
    need a label kind that scores every token. `holdout` is the share of samples that select the checkpoint
    if there is no validation function.
    """

    loss: str = "ghm+cos"
    lambda_cos: float = 1.0
    bins: int = 100
    momentum: float = 0.0
    normalise_by: Literal["nonempty", "bins"] = "nonempty"
    target: Target = "label"
    epochs: int = 30
    batch: int = 64
    lr: float = 0.003
    weight_decay: float = 0.0
    warmup: float = 0.0  # share of all steps
    clip: float | None = None  # largest gradient norm
    text: bool = True
    layers: int = 1
    norm: bool = False
    words: bool = False
    init: Literal["decoder", "random"] = "decoder"
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        to_plain(self)
        for name in ("lr", "weight_decay", "lambda_cos", "momentum", "warmup", "holdout", "clip"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"{name}={value}: choose a finite number")
        for name in ("epochs", "batch", "layers", "bins"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name}={cut(getattr(self, name))}: choose 1 or more, and at most {MOST:,}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed={cut(self.seed)}: choose a number that fits into 64 bits")
        self.make_objective()
        if not 0 < self.lr < 1e30 or self.weight_decay < 0:
            given = f"lr={self.lr}, weight_decay={self.weight_decay}"
            raise ValueError(f"{given}: choose lr above 0 and below 1e30, and no negative decay")
        if not self.lambda_cos >= 0:
            raise ValueError(f"lambda_cos={self.lambda_cos}: choose 0 or more")
        if not 0 <= self.warmup < 1 or not 0 < self.holdout < 1:
            given = f"warmup={self.warmup}, holdout={self.holdout}"
            raise ValueError(f"{given}: choose shares in [0, 1) and (0, 1)")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip}: choose a gradient norm above 0, or None")
        for name, known in (("target", get_args(Target)), ("init", ("decoder", "random"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")

    def make_objective(self) -> Objective:
        return make_objective(
            self.loss,
            bins=self.bins,
            momentum=self.momentum,
            normalise_by=self.normalise_by,
            lambda_cos=self.lambda_cos,
        )

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate at `step` of `steps`: linear warm-up, then cosine decay to zero."""
        rising = round(self.warmup * steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


# Appendix A of the paper: Adam, cosine decay from 0.003 over 30 epochs; bins and batch size differ by model.
PRESETS: dict[str, TrainConfig] = {
    "llava-1.5-7b": TrainConfig(bins=100, batch=256),
    "llava-next-7b": TrainConfig(bins=150, batch=32),
    "qwen2.5-vl-7b": TrainConfig(bins=150, batch=48),
    # Ours, for labels that score every token (attribution).
    "evocomp+": TrainConfig(
        loss="ce", target="lead", epochs=12, batch=16, warmup=0.05, clip=1.0, norm=True, words=True
    ),
}


# The preset for a model family, by the `model_type` of its configuration.
FAMILY_PRESETS = {"llava": "llava-1.5-7b", "llava_next": "llava-next-7b", "qwen2_5_vl": "qwen2.5-vl-7b"}


def paper_settings(family: str) -> TrainConfig:
    """Return the paper's settings for models of this `model_type`; ValueError if there are none."""
    if family not in FAMILY_PRESETS:
        raise ValueError(
            f"the paper trains no compressor for {family!r}: {', '.join(FAMILY_PRESETS)} have one"
        )
    return PRESETS[FAMILY_PRESETS[family]]


def preset(name: str) -> TrainConfig:
    """Return the paper's settings for a model, or ours for `evocomp+`; ValueError for another name."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
