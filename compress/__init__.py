"""Contracts for pruning and merging visual tokens. Importing this package is cheap: models load on use."""

from compress.base import INPUT, VISION, Scorer, Selection, Selector, View, top_k

__all__ = ["INPUT", "VISION", "Scorer", "Selection", "Selector", "View", "top_k"]
