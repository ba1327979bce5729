"""Visual-token compression for multimodal LLMs: search, learn, compare, measure.

This module exports everything that a program needs:

    from evocomp import FastV, attach, load

    mllm = load()
    with attach(mllm, FastV(), keep=48) as trace:
        print(mllm.answer([image], ["what color is the star ?"]), trace.samples[0].entering)

A name is imported on first use, so `import evocomp` takes milliseconds. `python -m evocomp` runs the command
line.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines import DART as DART
    from baselines import EVS as EVS
    from baselines import METHODS as METHODS
    from baselines import PACT as PACT
    from baselines import SCOPE as SCOPE
    from baselines import TRIM as TRIM
    from baselines import CDPruner as CDPruner
    from baselines import Cover as Cover
    from baselines import DARTInput as DARTInput
    from baselines import DivPrune as DivPrune
    from baselines import Downsample as Downsample
    from baselines import DyCoke as DyCoke
    from baselines import EvoComp as EvoComp
    from baselines import EvoCompPlus as EvoCompPlus
    from baselines import Farthest as Farthest
    from baselines import FasterVLM as FasterVLM
    from baselines import FastV as FastV
    from baselines import FastVID as FastVID
    from baselines import FlowCut as FlowCut
    from baselines import Frames as Frames
    from baselines import GlobalCom2 as GlobalCom2
    from baselines import GPrune as GPrune
    from baselines import Grid as Grid
    from baselines import HiRED as HiRED
    from baselines import HoliTom as HoliTom
    from baselines import HoloV as HoloV
    from baselines import KeepAll as KeepAll
    from baselines import LLaVAScissor as LLaVAScissor
    from baselines import MMTok as MMTok
    from baselines import MustDrop as MustDrop
    from baselines import Pool as Pool
    from baselines import PruMerge as PruMerge
    from baselines import PruMergePlus as PruMergePlus
    from baselines import PruneVid as PruneVid
    from baselines import PyramidDrop as PyramidDrop
    from baselines import Random as Random
    from baselines import SparseVLM as SparseVLM
    from baselines import ToMe as ToMe
    from baselines import VidCom2 as VidCom2
    from baselines import VisionZip as VisionZip
    from baselines import VisPruner as VisPruner
    from baselines import VScan as VScan
    from baselines import Words as Words
    from baselines import WordsCover as WordsCover
    from bench.evaluation.compare import Entry as Entry
    from bench.evaluation.compare import compare as compare
    from bench.evaluation.compressors import selector_for as selector_for
    from bench.evaluation.evaluate import evaluate as evaluate
    from bench.tasks import BENCHMARKS as BENCHMARKS
    from bench.tasks import TASKS as TASKS
    from bench.tasks import Task as Task
    from bench.tasks.load import load_tasks as load_tasks
    from compress.attach.session import Trace as Trace
    from compress.attach.session import attach as attach
    from compress.base import Scorer as Scorer
    from compress.base import Selection as Selection
    from compress.base import Selector as Selector
    from compress.base import TowerSelector as TowerSelector
    from compress.base import View as View
    from compress.compressor.network import Compressor as Compressor
    from compress.engines.embedding import embed as embed
    from compress.keep import Ratio as Ratio
    from compress.labels import LabelConfig as LabelConfig
    from compress.labels import LabelStore as LabelStore
    from compress.labels import label as label
    from compress.labels import read_labels as read_labels
    from compress.labels import search_sample as search_sample
    from compress.micro.world import render as render
    from compress.micro.world import scene as scene
    from compress.models.conversation import Turn as Turn
    from compress.models.loading import MODELS as MODELS
    from compress.models.loading import load as load
    from compress.samples import Sample as Sample
    from compress.training.config import TrainConfig as TrainConfig
    from compress.training.run import train as train
    from compress.video import Video as Video
    from compress.video import read_video as read_video
    from evosearch import Annealing as Annealing
    from evosearch import DpcKnn as DpcKnn
    from evosearch import Evolution as Evolution
    from evosearch import Grouping as Grouping
    from evosearch import HillClimb as HillClimb
    from evosearch import KMeans as KMeans
    from evosearch import Marginals as Marginals
    from evosearch import RandomGroups as RandomGroups
    from evosearch import RandomSearch as RandomSearch
    from evosearch import Strategy as Strategy
    from evosearch import Vocabulary as Vocabulary
    from evosearch import search as search

_HOME = Path(__file__).resolve().parent
_PACKAGES = ("evosearch", "compress", "baselines", "bench")
_PUBLIC = {
    "baselines": (
        "DART", "EVS", "METHODS", "PACT", "SCOPE", "TRIM", "CDPruner", "Cover", "DARTInput", "DivPrune",
        "Downsample", "DyCoke", "EvoComp", "EvoCompPlus", "Farthest", "FastV", "FastVID", "FasterVLM",
        "FlowCut", "Frames", "GPrune", "GlobalCom2", "Grid", "HiRED", "HoliTom", "HoloV", "KeepAll",
        "LLaVAScissor", "MMTok", "MustDrop", "Pool", "PruMerge", "PruMergePlus", "PruneVid", "PyramidDrop",
        "Random", "SparseVLM", "ToMe", "VScan", "VidCom2", "VisPruner", "VisionZip", "Words", "WordsCover",
    ),
    "bench.evaluation.compare": ("Entry", "compare"),
    "bench.evaluation.compressors": ("selector_for",),
    "bench.evaluation.evaluate": ("evaluate",),
    "bench.tasks": ("BENCHMARKS", "TASKS", "Task"),
    "bench.tasks.load": ("load_tasks",),
    "compress.attach.session": ("Trace", "attach"),
    "compress.base": ("Scorer", "Selection", "Selector", "TowerSelector", "View"),
    "compress.compressor.network": ("Compressor",),
    "compress.engines.embedding": ("embed",),
    "compress.keep": ("Ratio",),
    "compress.labels": ("LabelConfig", "LabelStore", "label", "read_labels", "search_sample"),
    "compress.micro.world": ("render", "scene"),
    "compress.models.conversation": ("Turn",),
    "compress.models.loading": ("MODELS", "load"),
    "compress.samples": ("Sample",),
    "compress.training.config": ("TrainConfig",),
    "compress.training.run": ("train",),
    "compress.video": ("Video", "read_video"),
    "evosearch": (
        "Annealing", "DpcKnn", "Evolution", "Grouping", "HillClimb", "KMeans", "Marginals", "RandomGroups",
        "RandomSearch", "Strategy", "Vocabulary", "search",
    ),
}  # fmt: skip
_HOMES = {name: (module, name) for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605


class _OwnPackages:
    """Finder of evocomp's four packages in this file's folder: a user's own `bench.py` cannot hide them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if path is None and name in _PACKAGES:
            return PathFinder.find_spec(name, [str(_HOME)])
        return None


def foreign() -> str:
    """Return an error message if another project's package hides one of evocomp's, else an empty string."""
    for name in _PACKAGES:
        module = sys.modules.get(name)
        spec = _OwnPackages.find_spec(name)
        file = getattr(module, "__file__", None) if module else spec and spec.origin
        if not file or Path(file).resolve() != _HOME / name / "__init__.py":
            return (
                f"the package '{name}' comes from {file or 'nowhere'}, not from evocomp: import evocomp "
                f"before it, or rename it. If another distribution (such as frappe-bench) installed it, use "
                f"an environment without that distribution"
            )
    return ""


def main() -> None:
    """Run the command line."""
    if problem := foreign():
        sys.exit(f"evocomp: {problem}")
    import_module("bench.cli").main(prog_name="evocomp")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evocomp' has no attribute '{name}'")
    if problem := foreign():
        raise ImportError(problem)
    module, inside = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), inside)
    return value


def __dir__() -> list[str]:
    return [*__all__, "main"]


if not any(finder.__class__.__name__ == "_OwnPackages" for finder in sys.meta_path):
    sys.meta_path.insert(0, _OwnPackages())

if __name__ == "__main__":
    main()
