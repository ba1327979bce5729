"""CLIP's joint space for a model with a CLIP tower: the text tower and both projections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from compress import hub
from evosearch.registry import cut

FILES = "*.json", "*.safetensors", "*.txt"


@dataclass(frozen=True)
class Clip:
    """The text tower, and the projections of text and image into the joint space of P dimensions."""

    model: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        """Width of the tower's features."""
        return int(self.model.visual_projection.in_features)

    @torch.no_grad()
    def patches(self, features: Tensor) -> Tensor:
        """Embeddings [N, P] of the features [N, C] of any tower layer."""
        found: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(features))
        return found

    @torch.no_grad()
    def texts(self, text: str, truncate: bool) -> Tensor:
        """Embeddings [M, P] of a text, one for each chunk of the text tower's maximum length.

        The last chunk is padded with zeros. With `truncate` M is 1: the text is truncated to the first chunk.
        """
        length = self.model.config.text_config.max_position_embeddings
        given = {"truncation": True, "max_length": length} if truncate else {}
        ids = torch.tensor(self.tokenizer(text, **given)["input_ids"], device=self.model.device)
        stretches = F.pad(ids, (0, -len(ids) % length)).view(-1, length)
        found: Tensor = self.model.text_projection(self.model.text_model(stretches).pooler_output)
        return found


@lru_cache(maxsize=1)
def load_clip(source: str, device: torch.device, dtype: torch.dtype) -> Clip:
    """Load CLIP from a folder or a hub name; ValueError, with what to do next, if there is none."""
    try:
        folder = source if Path(source).is_dir() else str(hub.fetch(source, FILES))
        auto: Any = CLIPModel  # typed without the report
        model, report = auto.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        if report["missing_keys"]:  # transformers would use random numbers instead
            raise ValueError(f"{len(report['missing_keys'])} of its weights are missing")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        why = cut((str(error).splitlines() or [type(error).__name__])[0], 400)
        raise ValueError(
            f"cannot load CLIP {source!r} for embeddings of the question: {why}; give another with "
            f"clip=FOLDER or clip=owner/name"
        ) from error
    model.vision_model.encoder = None  # not needed: the model's own tower encodes images
    return Clip(model.eval().requires_grad_(False).to(device), tokenizer)
