"""Processors read from their parts, without videos: processing these would need torchvision."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import transformers
from transformers import AutoTokenizer


@cache
def images_only(kind: Any) -> Any:
    """A subclass of a processor class, of the same name, that has no video processor and needs none."""

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
    }
    return type(kind.__name__, (kind,), changed)


def read(source: str, kind: str, pixels: str) -> Any:
    """The processor in a folder: classes of transformers by name, its image processor the PIL one.

    Settings of its own are those that its folder names; the chat template may lie with the tokenizer.
    """
    made = images_only(getattr(transformers, kind))
    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    images = getattr(transformers, pixels).from_pretrained(source)
    written, _ = made.get_processor_dict(source)
    parts = "self", "image_processor", "tokenizer", "video_processor", "kwargs"
    taken = [name for name in inspect.signature(made.__init__).parameters if name not in parts]
    settings = {name: written[name] for name in taken if written.get(name) is not None}
    settings.setdefault("chat_template", tokenizer.chat_template)
    return made(images, tokenizer, **settings)
