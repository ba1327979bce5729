"""Processors assembled from their parts, without a video processor, which would need torchvision."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import transformers
from transformers import AutoTokenizer, ProcessorMixin

from compress.models.frames import read_settings


class Present(ProcessorMixin):
    """A processor built from those parts that are not None."""

    def __init__(self, *parts: Any, **named: Any):
        there = {name: part for name, part in named.items() if part is not None}
        super().__init__(*(part for part in parts if part is not None), **there)


@cache
def images_only(kind: Any) -> Any:
    """A subclass of a processor class, with the same name, that needs no part for video or audio.

    `video_settings` holds the known settings of videos, see `compress.models.frames`.
    """

    def get_attributes(cls: Any) -> list[str]:
        return ["image_processor", "tokenizer"]

    def model_input_names(self: Any) -> list[str]:
        names = [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]
        typed = getattr(self, "return_mm_token_type_ids", False)
        return list(dict.fromkeys([*names, *(["mm_token_type_ids"] if typed else [])]))

    changed = {
        "get_attributes": classmethod(get_attributes),
        "model_input_names": property(model_input_names),
        "video_processor": None,
        "video_settings": {},
        "feature_extractor": None,
    }
    return type(kind.__name__, (kind, Present), changed)


def read(source: str, kind: str | type, pixels: str) -> Any:
    """The processor in a folder: a given class or one of transformers by name, with a PIL image processor.

    Its settings are those in its folder; the chat template may be stored with the tokenizer. ValueError if
    this release of transformers requires torchvision.
    """
    try:
        made: Any = images_only(getattr(transformers, kind)) if isinstance(kind, str) else kind
        images = getattr(transformers, pixels).from_pretrained(source)
    except ImportError as missing:
        raise ValueError(
            f"transformers {transformers.__version__} reads this family's images with torchvision only: "
            f"install it, or a newer transformers"
        ) from missing
    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    written, _ = made.get_processor_dict(source)
    parts = "image_processor", "tokenizer", "video_processor", "feature_extractor"
    known = inspect.signature(made).parameters
    taken = [name for name in known if name not in (*parts, "kwargs")]
    settings = {name: written[name] for name in taken if written.get(name) is not None}
    settings.setdefault("chat_template", tokenizer.chat_template)
    absent = dict.fromkeys(name for name in parts[2:] if name in known)
    found = made(image_processor=images, tokenizer=tokenizer, **absent, **settings)
    found.video_settings = read_settings(source)
    return found
