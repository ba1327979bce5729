"""Methods by name, with the trained compressors that the package ships for its models."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import torch

from baselines import METHODS
from compress.base import Selector
from compress.compressor.network import Compressor
from compress.models.loading import MLLM
from compress.seeding import drawing
from evosearch.registry import options, parse, pick

SHIPPED = Path(__file__).parents[1] / "shipped"  # SHIPPED / model / {compressor / method, labels / kind}


def shipped(model: str, what: str, kind: str) -> Path:
    """A folder that the package ships for a model: the compressor of a method, or labels of a kind.

    ValueError if it ships none.
    """
    folder = SHIPPED / model / what / kind
    if not folder.is_dir():
        have = sorted(f"{path.parent.parent.name}/{path.name}" for path in SHIPPED.glob(f"*/{what}/*"))
        raise ValueError(
            f"no {what} is shipped for model '{model}' ({kind}); shipped: {', '.join(have) or 'none'}. "
            f"Make your own: evocomp label, then evocomp train"
        )
    return folder


def takes_compressor(spec: str) -> bool:
    """Whether the method of this spec needs a trained compressor and the spec names none."""
    name, given = parse(spec)
    return name in METHODS and "compressor" in options(METHODS[name]) and "compressor" not in given


def buildable(model: str, compressor: str | None = None) -> list[str]:
    """Methods that a name alone makes, in the registry's order, and that have a budget.

    Left out are those that need an argument, if it is not a compressor that is given or shipped for `model`,
    and adaptive ones.
    """
    given = {"compressor"} if compressor or (SHIPPED / model / "compressor").is_dir() else set()
    return [
        name
        for name, method in METHODS.items()
        if not method.adaptive
        and {one.name for one in signature(method).parameters.values() if one.default is one.empty} <= given
    ]


def selector_for(spec: str, model: str, compressor: str | None = None) -> Selector:
    """A method by `name` or `name:option=value,...`.

    A method that takes a compressor gets the given folder or hub name, or the one shipped for it and `model`.
    ValueError for unknown names and options, for a compressor where none is taken, and where there is none.
    """
    takes = takes_compressor(spec)
    if compressor and not takes:
        raise ValueError(f"method '{spec}' takes no --compressor: leave it out")
    given = compressor or (str(shipped(model, "compressor", parse(spec)[0])) if takes else None)
    context = {"compressor": given} if takes else {}
    # A bad folder is an error now, not in the middle of a comparison.
    return pick(METHODS, spec, "method", **context).load()


def random_compressor(mllm: MLLM, seed: int = 0) -> Compressor:
    """A compressor of the shape that training would make for this model; its weights are drawn from `seed`.

    The global random state is left alone.
    """
    with drawing(seed, mllm.model.device), torch.device(mllm.model.device):
        return Compressor(mllm.decoder.config).eval().requires_grad_(False)
