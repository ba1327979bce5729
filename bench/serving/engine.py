"""vLLM models whose decoder gets the visual tokens that a method selects.

The processor counts the tokens that each image keeps, and passes on the inputs of the selection: the method,
the budget and, for methods that read it, the prompt. All of these are part of an image's hash, by which vLLM
caches embeddings and prefixes. The model then selects among the tokens of its own tower and projector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from vllm.logger import init_logger
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
    _build_llava_or_pixtral_hf_info,
    _build_llava_or_pixtral_hf_processor,
)
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptReplacement

from bench.serving.choices import Methods, methods_of
from bench.serving.settings import FIELD, NONE, Asked, of_request, read
from compress.attach.tower import Encoding
from compress.base import VISION
from compress.engines.choosing import EngineChoice, EnginePrompt, by_image
from compress.engines.tower import EngineLayer, encode, lend, named_tower
from compress.keep import count_of
from compress.models.mllm import MLLM, Picture

logger = init_logger("vllm.evocomp")
HEAD = 3  # entries of an image's field: method number, budget, text tokens before the image; the text follows
CARRIED = f"{FIELD}_choice"


def methods_for(config: Any, source: str) -> Methods | None:
    """The requested methods for a model's configuration; None if there are none."""
    settings = read(getattr(config, FIELD, None))
    return None if settings is None else methods_of(settings, source)


class Counting(BaseMultiModalProcessor):
    """A processor that reserves the positions of kept tokens, and passes on the inputs of the selection."""

    @property
    def methods(self) -> Methods | None:
        return methods_for(self.info.get_hf_config(), self.info.ctx.model_config.model)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Dummy inputs with all tokens, for measuring memory: a request may ask for all tokens."""
        made = super().get_dummy_inputs(*args, **kwargs)
        if self.methods is None:
            return made
        return replace(made, hf_processor_mm_kwargs={FIELD: {"method": NONE}})

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        methods, given = self.methods, dict(inputs.hf_processor_mm_kwargs)
        wish = given.pop(FIELD, None)
        if methods is None:
            if wish is not None:
                raise ValueError(
                    f"this server was started without a method: set EVOCOMP_METHOD and EVOCOMP_KEEP, or "
                    f"EVOCOMP_ALSO, or leave {FIELD} out of mm_processor_kwargs"
                )
            return super().apply(inputs, timing_ctx)
        asked = of_request(methods.settings, wish)
        if asked.method != NONE:
            choice = methods.choice(asked)  # raises for an impossible budget
            given[FIELD] = {"method": asked.method, "keep": asked.keep}
            if choice.reads_prompt:
                self._check_prompt(inputs, methods.mllm.image_token_id)
                given[FIELD]["prompt"] = list(inputs.prompt)
        return super().apply(replace(inputs, hf_processor_mm_kwargs=given), timing_ctx)

    def _check_prompt(self, inputs: Any, image: int) -> None:
        images, named = len(inputs.mm_data_items.get("image", ())), list(inputs.prompt).count(image)
        if images != named:
            raise ValueError(
                f"the prompt names {named} images, and {images} are given: write the image's token once for "
                f"each"
            )

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Hashes of images; if the selection depends on the prompt, they include the image's number in it."""
        hashes = super()._get_mm_hashes(inputs)
        if "prompt" not in inputs.hf_processor_mm_kwargs.get(FIELD, ()):
            return hashes
        return {
            modality: [f"{each}-{number}" for number, each in enumerate(found)]
            for modality, found in hashes.items()
        }

    def _get_cache_missing_processor_kwargs(self, inputs: Any, mm_is_cached: Any) -> Any:
        given = super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached)
        if FIELD not in given:
            return given
        missing = [number for number, cached in enumerate(mm_is_cached.get("image", ())) if not cached]
        return {**given, FIELD: {**given[FIELD], "images": missing}}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Any) -> Any:
        made = super()._apply_hf_processor_main(mm_items, without(hf_kwargs))
        wish = hf_kwargs.get(FIELD)
        methods = self.methods
        if wish is not None and methods is not None and made.get("pixel_values") is not None:
            pictures = methods.mllm.pictures(made)
            numbers = wish.get("images", range(len(pictures)))
            made[CARRIED] = [
                carried(methods, wish, picture, number)
                for picture, number in zip(pictures, numbers, strict=True)
            ]
        return made

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, without(hf_processor_mm_kwargs))
        return {**fields, CARRIED: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        wish, methods = hf_processor_mm_kwargs.get(FIELD), self.methods
        whole = super()._get_prompt_updates(mm_items, without(hf_processor_mm_kwargs), out_mm_kwargs)
        if wish is None or methods is None or "image" not in mm_items:
            return whole
        if not isinstance(mm_items["image"], ImageProcessorItems):  # embeddings given by the caller
            return whole
        choice = methods.choice(Asked(wish["method"], wish["keep"]))
        image = methods.mllm.image_token_id

        def places(number: int) -> list[int]:
            prepared = out_mm_kwargs["image"][number].get_data()
            return [image] * choice.count(methods.picture(without(prepared, CARRIED)))

        others = [update for update in whole if update.modality != "image"]
        return [PromptReplacement(modality="image", target=[image], replacement=places), *others]


def without(kwargs: Mapping[str, Any], name: str = FIELD) -> dict[str, Any]:
    return {each: value for each, value in kwargs.items() if each != name}


def carried(methods: Methods, wish: Mapping[str, Any], picture: Picture, number: int) -> Tensor:
    """The inputs of the selection for image `number` of a prompt."""
    before, text = 0, torch.empty(0, dtype=torch.long)
    if "prompt" in wish:
        own = EnginePrompt.read(torch.tensor(wish["prompt"]), methods.mllm.image_token_id)[number]
        before, text = own.before, own.ids
    keep = min(count_of(wish["keep"], len(picture)), len(picture))
    return torch.cat([torch.tensor([methods.names.index(wish["method"]), keep, before]), text])


class Choosing(nn.Module):
    """A model that selects among the tokens of its own tower and projector, as its processor requests."""

    config: Any
    get_language_model: Any
    chosen_by: Methods | None = None  # requested methods; not the processor's object, which has no weights

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        settings = read(getattr(self.config, FIELD, None))
        if settings is None:
            return
        shards = vllm_config.parallel_config.tensor_parallel_size
        if shards > 1:
            raise ValueError(
                f"--tensor-parallel-size {shards}: the tower and its choice are not split over devices; "
                f"serve several replicas instead (--data-parallel-size), or ask for no method"
            )
        self.chosen_by = Methods(settings, vllm_config.model_config.model)
        self._lend(self.chosen_by.mllm)
        also = f"; requests may ask for {', '.join(settings.also)}" if settings.also else ""
        logger.info("evocomp: visual tokens are chosen by %s%s", settings.default, also)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        wishes = kwargs.pop(CARRIED, None)
        if wishes is None:
            return self._untouched(**kwargs)
        assert self.chosen_by is not None
        found: list[Tensor | None] = [None] * len(wishes)
        methods = [int(wish[0]) for wish in wishes]
        for method in dict.fromkeys(methods):
            rows = [row for row, each in enumerate(methods) if each == method]
            given = self._of_images({name: each for name, each in kwargs.items() if each is not None}, rows)
            wished = [wishes[row] for row in rows]
            embed = self.get_language_model().embed_input_ids
            name = self.chosen_by.names[method]
            choices = [self.chosen_by.choice(Asked(name, int(wish[1])), embed) for wish in wished]
            for row, embeds in zip(rows, self._choose(choices, given, wished), strict=True):
                found[row] = embeds
        return found

    def _encode(self, given: Mapping[str, Any]) -> Sequence[Tensor]:
        """vLLM's own embeddings [N, D] of images."""
        found: Sequence[Tensor] = super().embed_multimodal(**given)  # type: ignore[misc]
        return found

    def _untouched(self, **kwargs: Any) -> Any:
        """The engine's embeddings of images and videos without a selection."""
        return self._encode(kwargs)

    def _of_images(self, given: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        """The inputs of some of the images."""
        return {name: _rows(value, rows) for name, value in given.items()}

    @abstractmethod
    def _lend(self, mllm: MLLM) -> None:
        """Let an outline of the model read the engine's modules."""

    @abstractmethod
    def _choose(
        self, choices: Sequence[EngineChoice], given: dict[str, Any], wishes: Sequence[Tensor]
    ) -> list[Tensor]:
        """The engine's embeddings of each image, after selection with one method."""


def prompt_of(wish: Tensor, device: torch.device) -> EnginePrompt:
    return EnginePrompt(wish[HEAD:].to(device), int(wish[2]))


class ChoosingOfClip(Choosing):
    """A model with a CLIP tower; methods may read the tower, and may act after it."""

    vision_tower: Any
    multi_modal_projector: Any

    def _lend(self, mllm: MLLM) -> None:
        tower = self.vision_tower.vision_model.encoder.layers
        self.tower_modules = {number: layer for number, layer in enumerate(tower)}
        vision = mllm.model.config.vision_config
        layers = {number: _readable(layer, vision) for number, layer in self.tower_modules.items()}
        named = named_tower(layers, len(mllm.tower_layers))
        lend(mllm, {"vision_tower": named, "multi_modal_projector": self.multi_modal_projector})

    def _choose(
        self, choices: Sequence[EngineChoice], given: dict[str, Any], wishes: Sequence[Tensor]
    ) -> list[Tensor]:
        mllm = choices[0].mllm
        pictures = mllm.pictures(given)
        # The tiles of an image may be padded to the number of another image's.
        tiles = torch.cat([
            each[: picture.tiles] if each.ndim == 4 else each[None]
            for each, picture in zip(given["pixel_values"], pictures, strict=True)
        ])  # fmt: skip
        at_tower = [
            VISION in choice.schedule(picture) for choice, picture in zip(choices, pictures, strict=True)
        ]
        whole: Sequence[Tensor | None] = [None] * len(pictures)
        if not all(at_tower):
            whole = self._encode(given)
        encoding = Encoding(list(tiles), {}, None, None, None, ())
        if any(at_tower):
            read = {layer: mllm.tower_block(layer) for layer in choices[0].selector.tower_layers}
            encoding = encode(self._tower, self.tower_modules, mllm, read, tiles)
        found = []
        for choice, picture, own, wish, embeds, acts in zip(
            choices, pictures, by_image(encoding, pictures), wishes, whole, at_tower, strict=True
        ):
            prompt = prompt_of(wish, tiles.device)
            found.append(choice.choose(picture, prompt, own, None if acts else embeds).embeds)
        return found

    def _tower(self, tiles: Tensor) -> Tensor:
        found: Tensor = self.vision_tower(tiles, feature_select_strategy="full")
        return found


def _readable(layer: Any, config: Any) -> EngineLayer:
    return EngineLayer(layer.layer_norm1, lambda hidden: layer.self_attn.qkv_proj(hidden)[0], config)


def _rows(value: Any, rows: Sequence[int]) -> Any:
    return value[list(rows)] if isinstance(value, Tensor) else [value[row] for row in rows]


class LlavaProcessor(Counting, LlavaMultiModalProcessor):
    """LLaVA-1.5."""


def _llava_processor(info: Any, dummy_inputs: Any) -> Any:
    if isinstance(info, LlavaProcessingInfo):
        return LlavaProcessor(info, dummy_inputs)
    return _build_llava_or_pixtral_hf_processor(info, dummy_inputs)


@MULTIMODAL_REGISTRY.register_processor(
    _llava_processor, info=_build_llava_or_pixtral_hf_info, dummy_inputs=LlavaDummyInputsBuilder
)
class CompressedLlava(ChoosingOfClip, LlavaForConditionalGeneration):
    """LLaVA-1.5 (and the converted Pixtral, which vLLM loads with the same class; no method acts on it)."""


class LlavaNextProcessor(Counting, LlavaNextMultiModalProcessor):
    """LLaVA-NeXT."""


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class CompressedLlavaNext(ChoosingOfClip, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT."""
