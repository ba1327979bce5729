"""Count the regions of GHM that a batch occupies in training, on the shipped labels of the micro model.

    python -m bench.speed.regions --samples 1200 --batch 16 --epochs 12 --seeds 0,1,2

There is a row for every seed and a column for every epoch: occupied regions divided by all regions, averaged
over the batches of the epoch. With GHM divided by all regions, lambda = 1 has the effect of this number (see
docs/training.md).
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from unittest import mock

import click
from torch import Tensor

from bench.console import option
from bench.evaluation.compressors import shipped
from bench.tasks.mixture import labelled_samples
from compress.labels import read_labels
from compress.models.loading import load, quiet
from compress.training.config import TrainConfig
from compress.training.losses import GHM
from compress.training.run import train


class Noting(GHM):
    """GHM that records the share of regions that every batch occupies."""

    def __init__(self, *given: object, shares: list[float]):
        super().__init__(*given)  # type: ignore[arg-type]
        self._shares = shares

    def advance(self, tally: Tensor) -> None:
        self._shares.append((tally > 0).sum().item() / self.bins)
        super().advance(tally)


def shares_of(config: TrainConfig, samples: int) -> list[float]:
    """The share of occupied regions, mean over the batches of each epoch, in training on `samples` labels."""
    mllm, store = load("micro"), read_labels(shipped("micro", "labels", "best"))
    labels = list(store)[:samples]
    shares: list[float] = []
    noting = mock.patch("compress.training.losses.GHM", lambda *given: Noting(*given, shares=shares))
    with TemporaryDirectory() as folder, noting:
        asked = labelled_samples(one.id for one in labels)
        train(mllm, labels, asked, folder, config)
    steps = len(shares) // config.epochs
    return [sum(shares[start : start + steps]) / steps for start in range(0, len(shares), steps)]


def numbers(_context: object, _option: object, text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


@click.command(help=__doc__)
@option("--samples", default=1200, help="Number of labels.")
@option("--batch", default=16, help="Samples per step.")
@option("--epochs", default=12, help="Number of epochs.")
@option("--seeds", default="0", callback=numbers, help="Seeds of training, separated by commas.")
def main(samples: int, batch: int, epochs: int, seeds: list[int]) -> None:
    quiet()
    click.echo(f"| seed | {' | '.join(f'epoch {number + 1}' for number in range(epochs))} |")
    click.echo("| --- |" + " ---: |" * epochs)
    for seed in seeds:
        shares = shares_of(TrainConfig(batch=batch, epochs=epochs, seed=seed), samples)
        click.echo(f"| {seed} | {' | '.join(f'{share:.2f}' for share in shares)} |")


if __name__ == "__main__":
    main()
