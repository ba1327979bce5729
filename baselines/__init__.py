"""Published and control methods, one file and one class each; a new one is a file and a line in `METHODS`."""

from baselines.downsample import Downsample
from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.mustdrop import MustDrop
from baselines.none import KeepAll
from baselines.pool import Pool
from baselines.random import Random
from baselines.tome import ToMe
from baselines.visionzip import VisionZip
from compress.base import Selector
from compress.evocomp import EvoComp

METHODS: dict[str, type[Selector]] = {
    "none": KeepAll,
    "random": Random,
    "grid": Grid,
    "pool": Pool,
    "downsample": Downsample,
    "fastv": FastV,
    "visionzip": VisionZip,
    "tome": ToMe,
    "mustdrop": MustDrop,
    "evocomp": EvoComp,
}

__all__ = [
    "METHODS",
    "Downsample",
    "EvoComp",
    "FastV",
    "Grid",
    "KeepAll",
    "MustDrop",
    "Pool",
    "Random",
    "ToMe",
    "VisionZip",
]
