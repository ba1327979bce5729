"""Additions to `compress.budget`: descriptions of equal budgets, and FLOPs from a decoder's sizes."""

from __future__ import annotations

from bench.evaluation.ledger import DecoderShape, Ledger
from compress.budget import Cost, Match

MEANING: dict[Match, str] = {
    "tokens": "visual tokens left after a method's last stage",
    "equivalent": "visual tokens entering a decoder layer, mean over layers",
    "flops": "prefill FLOPs, own choosing included, of a method that leaves so many before the decoder",
}


def flops_of(shape: DecoderShape, text: float = 0.0) -> Cost:
    """Return the function from visual tokens per layer to prefill FLOPs, for `text` other tokens."""
    return lambda counts: Ledger(shape, counts, text).prefill_flops
