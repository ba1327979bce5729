"""Published methods and controls, one class per file. To add one, write a file and list it in `METHODS`."""

from baselines.cdpruner import CDPruner
from baselines.cover import Cover
from baselines.dart import DART, DARTInput
from baselines.divprune import DivPrune
from baselines.downsample import Downsample
from baselines.dycoke import DyCoke
from baselines.evs import EVS
from baselines.farthest import Farthest
from baselines.fastervlm import FasterVLM
from baselines.fastv import FastV
from baselines.fastvid import FastVID
from baselines.flowcut import FlowCut
from baselines.frames import Frames
from baselines.globalcom2 import GlobalCom2
from baselines.gprune import GPrune
from baselines.grid import Grid
from baselines.hired import HiRED
from baselines.holitom import HoliTom
from baselines.holov import HoloV
from baselines.llava_scissor import LLaVAScissor
from baselines.mmtok import MMTok
from baselines.mustdrop import MustDrop
from baselines.none import KeepAll
from baselines.pact import PACT
from baselines.pool import Pool
from baselines.prumerge import PruMerge, PruMergePlus
from baselines.prunevid import PruneVid
from baselines.pyramiddrop import PyramidDrop
from baselines.random import Random
from baselines.scope import SCOPE
from baselines.sparsevlm import SparseVLM
from baselines.tome import ToMe
from baselines.trim import TRIM
from baselines.vidcom2 import VidCom2
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
    "frames": Frames,
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
    "pact": PACT,
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
    "mmtok": MMTok,
    "fastervlm": FasterVLM,
    "vispruner": VisPruner,
    "scope": SCOPE,
    "holov": HoloV,
    "vscan": VScan,
    "tome": ToMe,
    "mustdrop": MustDrop,
    "flowcut": FlowCut,
    "evs": EVS,
    "vidcom2": VidCom2,
    "fastvid": FastVID,
    "holitom": HoliTom,
    "dycoke": DyCoke,
    "prunevid": PruneVid,
    "llava-scissor": LLaVAScissor,
    "evocomp": EvoComp,
    "evocomp+": EvoCompPlus,
}

__all__ = [
    "PACT",
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
    "DyCoke",
    "EVS",
    "Downsample",
    "EvoComp",
    "EvoCompPlus",
    "Farthest",
    "FastV",
    "FastVID",
    "FlowCut",
    "Frames",
    "GPrune",
    "GlobalCom2",
    "Grid",
    "HiRED",
    "HoliTom",
    "KeepAll",
    "LLaVAScissor",
    "MMTok",
    "MustDrop",
    "Pool",
    "PruMerge",
    "PruMergePlus",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "ToMe",
    "VidCom2",
    "VisionZip",
    "Words",
    "WordsCover",
]
