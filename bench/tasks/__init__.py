"""The benchmarks by name. A new one needs a file in this package and an entry in `TASKS`."""

from bench.tasks.ai2d import AI2D
from bench.tasks.base import Task
from bench.tasks.chartqa import ChartQA
from bench.tasks.clips import Clips
from bench.tasks.docvqa import DocVQA
from bench.tasks.gqa import GQA
from bench.tasks.mmbench import MMBench, MMBenchCN
from bench.tasks.mme import MME
from bench.tasks.mmmu import MMMU
from bench.tasks.mmstar import MMStar
from bench.tasks.mvbench import MVBench
from bench.tasks.ocrbench import OCRBench
from bench.tasks.pope import Pope
from bench.tasks.scenes import Scenes
from bench.tasks.scienceqa import ScienceQA
from bench.tasks.textvqa import TextVQA
from bench.tasks.videomme import VideoMME
from bench.tasks.vizwiz import VizWiz
from bench.tasks.vqav2 import VQAv2

TASKS: dict[str, type[Task]] = {
    "gqa": GQA,
    "mmbench": MMBench,
    "mmbench-cn": MMBenchCN,
    "pope": Pope,
    "vqav2": VQAv2,
    "vizwiz": VizWiz,
    "textvqa": TextVQA,
    "mme": MME,
    "scienceqa": ScienceQA,
    "ocrbench": OCRBench,
    "chartqa": ChartQA,
    "docvqa": DocVQA,
    "ai2d": AI2D,
    "mmstar": MMStar,
    "mmmu": MMMU,
    "scenes": Scenes,
    "mvbench": MVBench,
    "video-mme": VideoMME,
    "clips": Clips,
}
# The paper's six. textvqa selects checkpoints; scenes asks several questions about one image.
BENCHMARKS = ("gqa", "mmbench", "mmbench-cn", "pope", "vqav2", "vizwiz")
VIDEOS = tuple(name for name, task in TASKS.items() if task.videos)

__all__ = ["BENCHMARKS", "TASKS", "VIDEOS", "Task"]
