"""Published and control methods, one file and one class each; a new one is a file and a line in `METHODS`."""

from baselines.downsample import Downsample
from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.none import KeepAll
from baselines.pool import Pool
from baselines.random import Random
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
    "evocomp": EvoComp,
}

__all__ = [
    "METHODS",
    "Downsample",
    "EvoComp",
    "FastV",
    "Grid",
    "KeepAll",
    "Pool",
    "Random",
    "VisionZip",
]
