"""Methods for tests: with their defaults, and one per way in which they act on a model."""

from __future__ import annotations

import torch

from baselines import METHODS
from compress.base import Selector, TowerSelector
from compress.compressor.evocomp import Learned
from compress.compressor.network import Compressor
from compress.models.loading import MLLM

# What lies between a method and the model depends on the way in which it acts, not on its rule. Tests of that
# run on these; tests of what a method owes run on all.
REPRESENTATIVES = {
    "none": "keeps all",
    "downsample": "scales the image down",
    "tome": "merges inside the tower",
    "mustdrop": "merges inside the tower, drops in several decoder layers, and cuts caches",
    "visionzip": "selects and merges at the tower's output",
    "trim": "reads CLIP's text tower",
    "vscan": "selects at the tower's output and in a decoder layer",
    "random": "selects at the decoder's input",
    "pool": "gives new values at the decoder's input",
    "fastv": "selects in a decoder layer",
    "sparsevlm": "selects and merges in several decoder layers",
    "evocomp": "has a network of its own",
}

OF_IMAGES = [name for name, method in METHODS.items() if not method.video]  # the others refuse images


def make(name: str, mllm: MLLM) -> Selector:
    """The method with its defaults; one that was trained gets an untrained compressor for this model."""
    if issubclass(METHODS[name], Learned):
        torch.manual_seed(0)
        return METHODS[name](Compressor.from_decoder(mllm.decoder))
    return METHODS[name]()


def way(method: Selector) -> tuple[object, ...]:
    """How a method acts, as far as its declarations tell."""
    depths = method.schedule(144, 40, 12)
    return (
        isinstance(method, TowerSelector) and type(method).resolution is not TowerSelector.resolution,
        isinstance(method, TowerSelector) and type(method).tower is not TowerSelector.tower,
        {min(depth, 1) for depth in depths} - {0},
        method.cut_caches_from(12) is None,
        method.reads_clip is None,
        isinstance(method, Learned),
    )
