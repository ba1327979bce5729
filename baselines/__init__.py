"""Published and control methods, one file and one class each; a new one is a file and a line in `METHODS`."""

from baselines.cdpruner import CDPruner
from baselines.cover import Cover
from baselines.dart import DART, DARTInput
from baselines.divprune import DivPrune
from baselines.downsample import Downsample
from baselines.farthest import Farthest
from baselines.fastervlm import FasterVLM
from baselines.fastv import FastV
from baselines.globalcom2 import GlobalCom2
from baselines.gprune import GPrune
from baselines.grid import Grid
from baselines.hired import HiRED
from baselines.holov import HoloV
from baselines.mustdrop import MustDrop
from baselines.none import KeepAll
from baselines.pool import Pool
from baselines.prumerge import PruMerge, PruMergePlus
from baselines.pyramiddrop import PyramidDrop
from baselines.random import Random
from baselines.scope import SCOPE
from baselines.sparsevlm import SparseVLM
from baselines.tome import ToMe
from baselines.trim import TRIM
from baselines.visionzip import VisionZip
from baselines.vispruner import VisPruner
from baselines.vscan import VScan
from baselines.words import Words, WordsCover
from compress.base import Selector
from compress.compressor.evocomp import EvoComp
from compress.compressor.evocomp_plus import EvoCompPlus

METHODS: dict[str, type[Selector]] = {
    "none": KeepAll,
    "random": Random,
    "grid": Grid,
    "farthest": Farthest,
    "cover": Cover,
    "words": Words,
    "words+cover": WordsCover,
    "pool": Pool,
    "downsample": Downsample,
    "fastv": FastV,
    "dart": DART,
    "dart-input": DARTInput,
    "sparsevlm": SparseVLM,
    "pyramiddrop": PyramidDrop,
    "hired": HiRED,
    "prumerge": PruMerge,
    "prumerge+": PruMergePlus,
    "visionzip": VisionZip,
    "globalcom2": GlobalCom2,
    "gprune": GPrune,
    "divprune": DivPrune,
    "cdpruner": CDPruner,
    "trim": TRIM,
    "fastervlm": FasterVLM,
    "vispruner": VisPruner,
    "scope": SCOPE,
    "holov": HoloV,
    "vscan": VScan,
    "tome": ToMe,
    "mustdrop": MustDrop,
    "evocomp": EvoComp,
    "evocomp+": EvoCompPlus,
}

__all__ = [
    "TRIM",
    "CDPruner",
    "VScan",
    "HoloV",
    "SCOPE",
    "VisPruner",
    "FasterVLM",
    "DivPrune",
    "DART",
    "METHODS",
    "Cover",
    "DARTInput",
    "Downsample",
    "EvoComp",
    "EvoCompPlus",
    "Farthest",
    "FastV",
    "GPrune",
    "GlobalCom2",
    "Grid",
    "HiRED",
    "KeepAll",
    "MustDrop",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "ToMe",
    "VisionZip",
    "Words",
    "WordsCover",
]
