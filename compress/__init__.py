"""Let the decoder see fewer visual tokens. Light names only: models and training load where they are used."""

from compress.base import INPUT, VISION, Scorer, Selection, Selector, View, top_k

__all__ = ["INPUT", "VISION", "Scorer", "Selection", "Selector", "View", "top_k"]
