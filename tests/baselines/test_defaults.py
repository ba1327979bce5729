"""The defaults of every method are the published ones: a changed one changes every table."""

from dataclasses import fields
from inspect import getdoc

import pytest

from baselines import METHODS

PRUMERGE = {
    "adaptive": False, "merging": "code", "order": "attention", "heads": "one", "neighbours": 32, "layer": -1,
}  # fmt: skip
DART = {"image_pivots": 4, "text_pivots": 4, "pivot_order": "cpython_set", "budget": "strict"}
PUBLISHED = {
    "none": {},
    "random": {"seed": 0, "depth": 0, "draws": 5},
    "grid": {"depth": 0},
    "farthest": {},
    "cover": {},
    "pool": {"depth": 0},
    "downsample": {},
    "fastv": {"layer": 2, "queries": "last"},
    "dart": {"layer": 2, **DART},
    "dart-input": {"layer": 0, **DART},
    "sparsevlm": {"adaptive": False, "scale": 13.5, "bias": 0.0, "noise": False},
    "pact": {"layer": 4, "kept": 0.55, "cutoff": 0.21, "recovery": 1.5, "adaptive": False},
    "pyramiddrop": {"stages": "2/10/20", "ratio": 0.5, "adaptive": False},
    "hired": {"alpha": 0.5, "crop_mapping": "flat_chunks", "early": 0, "late": -2, "cls": "own"},
    "prumerge": PRUMERGE,
    "prumerge+": {**PRUMERGE, "salient": 0.25},
    "visionzip": {"contextual": 0.15625, "layer": -2, "cls": "own"},
    "globalcom2": {"temperature": 10.0, "signal": "logits", "order": "score", "layer": -1},
    "gprune": {"similarity": 0.5, "temperature": 0.03, "iterations": 5},
    "tome": {"inflection": 0.0, "proportional": True},
    "mustdrop": {
        "window": 3, "key_rate": 0.08, "similarity": 0.8, "global_threshold": 0.001,
        "individual_threshold": 0.001, "adaptive": False, "stages": "all",
    },
    "flowcut": {"ahead": 1.0},
    "divprune": {},
    "fastervlm": {"layer": -2, "cls": "own"},
    "vispruner": {"important": 0.5, "layer": -2, "cls": "own"},
    "scope": {"alpha": 1.0, "layer": -2, "cls": "own"},
    "holov": {
        "alpha": 0.09, "chunks": 0, "surplus": "shared", "order": "attention", "layer": -2, "cls": "own",
    },
    "vscan": {"ratio": 1 / 3, "stage": 16, "window": 0, "shallow": 5 / 24, "deep": -2, "cls": "own"},
    "cdpruner": {"relevance": "clip", "clip": ""},
    "trim": {"adaptive": False, "clip": ""},
    "mmtok": {
        "alpha": 0.5, "text_temperature": 0.02, "vision_temperature": 0.2, "features": "tower",
    },
    "frames": {},
    "evs": {},
    "vidcom2": {"channels": 0.5, "temperature": 0.01},
    "fastvid": {
        "segments": 8, "threshold": 0.9, "context": 0.4, "step": 4, "weight": 0.6, "signal": "head",
        "layer": -1,
    },
    "holitom": {
        "similarity": 0.8, "weight": 0.6, "neighbours": 7, "window": 1024, "ratio": 0.5, "stage": 18,
        "layer": -1,
    },
    "dycoke": {"last": "kept", "order": "similarity"},
    "prunevid": {
        "scenes": 0.25, "similarity": 0.8, "clusters": 0.5, "ratio": 0.4, "layer": 10, "adaptive": False,
    },
    "llava-scissor": {"threshold": 0.95, "adaptive": False},
    "evocomp": {"depth": 0},
    "evocomp+": {"layer": 0, "sharpness": 1.0, "near": 1},
}  # fmt: skip
# What follows from them: positions of kept tokens, tower layers that are read, where a tower merges.
COMPACT = {
    "cdpruner", "divprune", "dycoke", "fastervlm", "flowcut", "globalcom2", "hired", "holitom", "holov",
    "llava-scissor", "mmtok", "mustdrop", "prumerge", "prumerge+", "prunevid", "pyramiddrop", "scope",
    "sparsevlm", "tome", "trim", "vidcom2", "visionzip", "vispruner", "vscan",
}  # fmt: skip
TOWER = {
    "fastervlm": (-2,), "globalcom2": (-1,), "hired": (0, -2), "holitom": (-1,), "holov": (-2,),
    "mustdrop": (-1,), "prumerge": (-1,), "prumerge+": (-1,), "scope": (-2,), "visionzip": (-2,),
    "vispruner": (-2,), "vscan": (5 / 24, -2),
}  # fmt: skip
MERGE_AFTER = {"tome": "attention", "mustdrop": "block", "flowcut": "block"}


def test_every_method_of_a_paper_is_listed():
    of_papers = {name for name, method in METHODS.items() if "arXiv" in (getdoc(method) or "")}
    assert of_papers <= PUBLISHED.keys() <= METHODS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_ones(name: str):
    method = METHODS[name]
    found = {one.name: one.default for one in fields(method) if one.init and one.name != "compressor"}
    assert found == PUBLISHED[name]
    if name.startswith("evocomp"):
        return
    made = method()
    assert made.positions == ("compact" if name in COMPACT else "original")
    assert made.tower_layers == TOWER.get(name, ())
    assert name not in MERGE_AFTER or made.merge_after == MERGE_AFTER[name]
