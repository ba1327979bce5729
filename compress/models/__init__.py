"""Multimodal models behind one adapter: loaded by name, or wrapped as given."""

from typing import TYPE_CHECKING

from compress.lazy import lazy

if TYPE_CHECKING:
    from compress.models.conversation import Turn as Turn
    from compress.models.families import FAMILIES as FAMILIES
    from compress.models.loading import MODELS as MODELS
    from compress.models.loading import adapt as adapt
    from compress.models.loading import load as load
    from compress.models.loading import outline as outline
    from compress.models.mllm import MLLM as MLLM

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "conversation": ("Turn",),
        "families": ("FAMILIES",),
        "loading": ("MODELS", "adapt", "load", "outline"),
        "mllm": ("MLLM",),
    },
)
