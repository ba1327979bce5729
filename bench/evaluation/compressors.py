"""Methods by name, with the trained compressors that the package ships for its models."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Return the shipped folder for a model: the compressor of a method, or labels of a kind.

    ValueError if there is none.
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
    """Return whether the method of this spec needs a trained compressor and the spec names none."""
    name, given = parse(spec)
    return name in METHODS and "compressor" in options(METHODS[name]) and "compressor" not in given


def buildable(model: str, compressor: str | None = None) -> list[str]:
    """List the methods that can be built from their name alone and have a budget, in the registry's order.

    Adaptive methods are left out, and so are methods that need an argument other than a compressor that is
    given or shipped for `model`.
    """
    given = {"compressor"} if compressor or (SHIPPED / model / "compressor").is_dir() else set()
    return [
        name
        for name, method in METHODS.items()
        if not method.adaptive
        and {one.name for one in signature(method).parameters.values() if one.default is one.empty} <= given
    ]


def selector_for(spec: str, model: str, compressor: str | None = None) -> Selector:
    """Build a method from `name` or `name:option=value,...`.

    A method that takes a compressor gets the given folder or hub name, or the compressor shipped for it and
    `model`. ValueError for unknown names and options, for a compressor given to a method that takes none, and
    for a missing compressor.
    """
    takes = takes_compressor(spec)
    if compressor and not takes:
        raise ValueError(f"method '{spec}' takes no --compressor: leave it out")
    given = compressor or (str(shipped(model, "compressor", parse(spec)[0])) if takes else None)
    context = {"compressor": given} if takes else {}
    # A bad folder must fail now, not in the middle of a comparison.
    return pick(METHODS, spec, "method", **context).load()


def refuse_unused(compressor: str | None, methods: Iterable[str]) -> None:
    """ValueError if a compressor is given and no method takes it."""
    if compressor and not any(map(takes_compressor, methods)):
        raise ValueError("no method takes the --compressor: leave it out, or add evocomp to --methods")


def selectors_for(methods: Iterable[str], model: str, compressor: str | None = None) -> dict[str, Selector]:
    """Build methods from their specs. The compressor goes to those that take one; see `selector_for`.

    ValueError if a compressor is given and none takes it.
    """
    named = list(methods)
    refuse_unused(compressor, named)
    return {spec: selector_for(spec, model, compressor if takes_compressor(spec) else None) for spec in named}


def random_compressor(mllm: MLLM, seed: int = 0) -> Compressor:
    """Build a compressor of the shape that training gives for this model, with weights drawn from `seed`.

    The global random state does not change.
    """
    with drawing(seed, mllm.model.device), torch.device(mllm.model.device):
        return Compressor(mllm.decoder.config).eval().requires_grad_(False)
