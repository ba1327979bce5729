"""The training curves, one row per epoch, as a table and as a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from compress.files import replacing

CURVES, PICTURE = "curves.csv", "curves.png"


@dataclass(frozen=True)
class Epoch:
    """One row of the curves.

    `score` selects the checkpoint, higher is better. It is the result of the validation function. Without
    one it is the mean recall of the label on held-out samples, among as many tokens of highest probability.
    """

    epoch: int  # from 1
    rate: float  # learning rate of its first step
    loss: float  # mean training loss
    score: float
    seconds: float  # since training began, in this process


def write(history: Sequence[Epoch], target: Path) -> None:
    with replacing(target) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([[column.name for column in fields(Epoch)], *map(astuple, history)])


def draw(history: Sequence[Epoch], target: Path) -> None:
    from matplotlib.figure import Figure  # imported late: it takes half a second

    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [one.epoch for one in history]
    left.plot(epochs, [one.loss for one in history])
    left.set(title="training loss", xlabel="epoch")
    right.plot(epochs, [one.score for one in history])
    best = max(history, key=lambda one: one.score)
    right.plot([best.epoch], [best.score], "o", label=f"best: {best.score:.4f}")
    right.set(title="validation score", xlabel="epoch")
    right.legend()
    with replacing(target) as part:
        figure.savefig(part, format="png", dpi=120)
