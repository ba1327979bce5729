"""Adapters: one face for every multimodal model family, and `load(name)`.

An adapter says where a family keeps its parts (tower, projector, decoder, head) and how a prompt is built;
nothing in it changes the transformers model it holds. A new family is one subclass of `MLLM` and one line in
`FAMILIES`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.utils import logging

MODELS: dict[str, Path] = {"micro": Path(__file__).parent / "micro" / "weights" / "micro"}


@dataclass(frozen=True)
class Embedded:
    """One sample as the decoder sees it: S rows, prompt first, then the response; positions are arange(S)."""

    embeds: Tensor  # [S, D] decoder input embeddings, visual tokens in place
    visual: Tensor  # [N] int64, rows of the visual tokens, ascending
    prompt: int  # rows [0, prompt) are the prompt, visual tokens included; the rest is the response
    response: Tensor  # [R] int64 response token ids, end-of-sequence included; empty without a response
    grid: tuple[int, int]  # rows x columns of the visual tokens


class MLLM(ABC):
    """A multimodal model with its processor. Construct through `load` (by name) or `adapt` (around a live
    model).

    Modules of the model are typed `Any`: their attributes are the family's, not torch's.
    """

    def __init__(self, model: PreTrainedModel, processor: Any = None, name: str = ""):
        self.model: Any = model
        self.processor = processor
        self.name = name or type(model).__name__

    # What a family must say ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The language model: `.layers`, `.norm`, `.rotary_emb`, `.embed_tokens`, `.config`."""

    @property
    @abstractmethod
    def tower(self) -> Any:
        """The vision encoder."""

    @property
    @abstractmethod
    def tower_layers(self) -> Any:
        """Its transformer blocks, each with `layer_norm1` and `self_attn`."""

    @property
    @abstractmethod
    def projector(self) -> Any:
        """The aligner: tower features [I, N, C] -> decoder width [I, N, D]."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows x columns of the visual tokens of one image."""

    @property
    @abstractmethod
    def tower_depth(self) -> int:
        """How many of the tower's blocks the projector's input passes."""

    @abstractmethod
    def tower_cls(self, output: Any) -> Tensor | None:
        """CLS feature [I, C] at the layer the projector reads, from the tower's output; None without CLS."""

    @abstractmethod
    def merge(self, inputs: BatchFeature) -> Tensor:
        """Decoder input embeddings [B, S, D] of prepared inputs, visual tokens in place."""

    # What all families share --------------------------------------------------------------------------------

    @property
    def head(self) -> Any:
        """Hidden states [..., D] -> logits [..., V]."""
        return self.model.get_output_embeddings()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.decoder.layers)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one image before any compression."""
        rows, columns = self.grid
        return rows * columns

    @property
    def image_token_id(self) -> int:
        return self.model.config.image_token_id

    def causal_mask(self, hidden: Tensor, mask: Tensor | None, cache: Any, layer: int) -> Any:
        """What a decoder layer expects as attention mask, for its own cache and the current attention kernel.

        hidden [B, L, D] are the new rows; mask [B, cached + L] bool, False = padding, None = no padding.
        """
        return create_causal_mask(
            config=self.decoder.config,
            inputs_embeds=hidden,
            attention_mask=None if mask is None else mask.to(hidden.device),
            past_key_values=cache,
            layer_idx=layer,
        )

    def prepare(self, images: Sequence[Image], questions: Sequence[str]) -> BatchFeature:
        """Inputs for `model.generate(**inputs)`: chat format, left padding, on the model's device."""
        if len(images) != len(questions) or not questions:
            raise ValueError(
                f"{len(images)} images and {len(questions)} questions: give one image per question"
            )
        for number, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {number} is empty: ask something about the image")
        prompts = [self.prompt(question) for question in questions]
        pixels = [image.convert("RGB") for image in images]
        inputs = self._processor()(images=pixels, text=prompts, padding=True, return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs.to(self.model.device)

    def prompt(self, question: str) -> str:
        """The question with one image in the chat format of the model."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        return self._processor().apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    @torch.no_grad()
    def embed(self, image: Image, question: str, response: str | None = None) -> Embedded:
        """The decoder's input for one sample; a response follows the prompt, with the end token."""
        inputs = self.prepare([image], [question])
        embeds = self.merge(inputs)[0]
        ids = embeds.new_empty(0, dtype=torch.long)
        if response is not None:
            tokenizer = self._processor().tokenizer
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([*answer, tokenizer.eos_token_id], device=embeds.device)
        visual = (inputs["input_ids"][0] == self.image_token_id).nonzero()[:, 0]
        rows = torch.cat([embeds, self.decoder.embed_tokens(ids)])
        return Embedded(rows, visual, prompt=len(embeds), response=ids, grid=self.grid)

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], *, max_new_tokens: int = 16
    ) -> list[str]:
        """Greedy answers, stripped; inside `with attach(...)` with fewer visual tokens."""
        inputs = self.prepare(images, questions)
        tokenizer = self._processor().tokenizer
        ids = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights: equal for equal models, in every process."""
        config = self.model.config.to_diff_dict()
        config = {
            key: value
            for key, value in config.items()
            if key not in ("transformers_version", "_name_or_path")
        }
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _processor(self) -> Any:
        if self.processor is None:
            raise ValueError(f"{self.name} has no processor: load it by name, or adapt(model, processor)")
        return self.processor


class Llava(MLLM):
    """LLaVA-1.5: CLIP tower with a CLS token, two-layer projector, Llama decoder, one fixed image size."""

    def __init__(self, model: PreTrainedModel, processor: Any = None, name: str = ""):
        super().__init__(model, processor, name)
        config = model.config
        if config.vision_feature_select_strategy != "default" or not isinstance(
            config.vision_feature_layer, int
        ):
            raise ValueError(
                f"{self.name} reads tower layers {config.vision_feature_layer} with strategy "
                f"{config.vision_feature_select_strategy!r}: supported are one layer and 'default'"
            )

    @property
    def decoder(self) -> Any:
        return self.model.model.language_model

    @property
    def tower(self) -> Any:
        return self.model.model.vision_tower

    @property
    def tower_layers(self) -> Any:
        return self.tower.encoder.layers

    @property
    def projector(self) -> Any:
        return self.model.model.multi_modal_projector

    @cached_property
    def grid(self) -> tuple[int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def tower_depth(self) -> int:
        return range(len(self.tower_layers) + 1)[self.model.config.vision_feature_layer]

    def tower_cls(self, output: Any) -> Tensor | None:
        return output.hidden_states[self.model.config.vision_feature_layer][:, 0]

    def merge(self, inputs: BatchFeature) -> Tensor:
        ids = inputs["input_ids"]
        embeds = self.decoder.embed_tokens(ids)
        features = self.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        return embeds.masked_scatter(
            (ids == self.image_token_id)[..., None], torch.cat(list(features)).to(embeds)
        )


FAMILIES: dict[str, type[MLLM]] = {"llava": Llava}


def adapt(model: PreTrainedModel | MLLM, processor: Any = None, name: str = "") -> MLLM:
    """The adapter of a live transformers model (or the one given). ValueError for unknown families."""
    if isinstance(model, MLLM):
        return model
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES or not hasattr(model, "generate"):
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(
            f"{type(model).__name__} is not a supported multimodal model: give one of family {known}"
        )
    return FAMILIES[family](model, processor, name)


def load(name: str = "micro", *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> MLLM:
    """Load a shipped model, a local folder or a hub name, in evaluation mode.

    ValueError, with what to do next, if there is no such model or its family is not supported.
    """
    source = _source(name)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load model {name!r}: {str(error).splitlines()[0]}") from error
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{name!r} is a {config.model_type!r} model; supported: {', '.join(sorted(FAMILIES))}"
        )
    try:
        auto: Any = AutoModelForImageTextToText  # typed without the report
        model, report = auto.from_pretrained(source, dtype=dtype, output_loading_info=True)
        # PIL: the same pixels with and without torchvision.
        processor = AutoProcessor.from_pretrained(source, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load model {name!r}: {str(error).splitlines()[0]}") from error
    except SafetensorError as error:
        raise ValueError(f"cannot load model {name!r}: its weights are unreadable ({error})") from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise ValueError(f"cannot load model {name!r}: weights and config differ in shape") from error
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise ValueError(f"cannot load model {name!r}: {len(missing)} weights are missing, e.g. {missing[0]}")
    processor.tokenizer.padding_side = "left"
    return adapt(model.eval().to(device), processor, name)


def quiet() -> None:
    """Silence the progress bars of transformers and all its messages but errors, for the whole process."""
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel(ERROR)  # it announces every retry of a connection
    logging.disable_progress_bar()


def _source(name: str) -> str:
    """The folder or hub name behind a model name."""
    if name in MODELS:
        if not MODELS[name].is_dir():
            raise ValueError(
                f"the weights of the shipped model {name!r} are missing: rebuild them with `make micro`"
            )
        return str(MODELS[name])
    if Path(name).is_dir():
        return name
    if name.count("/") != 1 or name.startswith((".", "/")):
        near = get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped: {', '.join(sorted(MODELS))}"
        raise ValueError(f"unknown model {name!r}; {hint} (else give a folder, or a hub name as owner/name)")
    return name
