"""Published and control methods, one file and one class each; a new one is a file and a line in `METHODS`."""

from baselines.farthest import Farthest
from baselines.fastv import FastV
from baselines.globalcom2 import GlobalCom2
from baselines.gprune import GPrune
from baselines.grid import Grid
from baselines.hired import HiRED
from baselines.none import KeepAll
from baselines.prumerge import PruMerge, PruMergePlus
from baselines.random import Random
from baselines.visionzip import VisionZip
from compress.base import Selector
from compress.evocomp import EvoComp

METHODS: dict[str, type[Selector]] = {
    "none": KeepAll,
    "random": Random,
    "grid": Grid,
    "farthest": Farthest,
    "fastv": FastV,
    "hired": HiRED,
    "prumerge": PruMerge,
    "prumerge+": PruMergePlus,
    "visionzip": VisionZip,
    "globalcom2": GlobalCom2,
    "gprune": GPrune,
    "evocomp": EvoComp,
}

__all__ = [
    "METHODS",
    "EvoComp",
    "Farthest",
    "FastV",
    "GPrune",
    "GlobalCom2",
    "Grid",
    "HiRED",
    "KeepAll",
    "PruMerge",
    "PruMergePlus",
    "Random",
    "VisionZip",
]
