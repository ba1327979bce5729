"""Qwen's models in vLLM: kept tokens retain their positions on three axes (M-RoPE).

The kept tokens of an image are known when it is encoded, but positions are computed before that. Therefore
embeddings carry the position of their token in the image, in additional columns. The model removes these
columns when it reads the prompt, and shifts positions by them. vLLM does the same for tokens of videos, but
its engine for CPUs omits the part of it outside the model (`is_multimodal_pruning_enabled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageProcessorItems

from bench.serving.engine import CARRIED, Choosing, Counting, prompt_of, without
from compress.attach.tower import Encoding
from compress.engines.choosing import EngineChoice
from compress.engines.tower import lend
from compress.models.mllm import MLLM

BASE = 128  # base of the digits of a position: half precision represents them exactly
COLUMNS = 4  # row and column, two digits each


def marks(index: Tensor, columns: int) -> Tensor:
    """[K, 4] row and column of tokens [K] in an image with `columns` columns; -1, the whole image, is 0."""
    place = index.clamp(min=0)
    row, column = place // columns, place % columns
    return torch.stack([row // BASE, row % BASE, column // BASE, column % BASE], 1)


def places(marked: Tensor) -> Tensor:
    """[3, K] offsets of tokens with marks [K, 4] from the first position of their image."""
    high, low, right, left = marked.long().T
    return torch.stack([torch.zeros_like(high), high * BASE + low, right * BASE + left])


class Repositioned(Choosing):
    """A model with positions on three axes."""

    visual: Any
    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.chosen_by is None:
            return
        parallel = vllm_config.parallel_config
        for given, option in (
            (vllm_config.model_config.multimodal_config.video_pruning_rate, "--video-pruning-rate"),
            (vllm_config.speculative_config, "--speculative-config"),
            (parallel.pipeline_parallel_size > 1, "--pipeline-parallel-size"),
            (parallel.enable_dbo, "--enable-dbo"),
        ):
            if given:
                raise ValueError(f"{option} does not go with a method of evocomp: leave one of them out")
        # Offsets of a step's tokens, at a fixed address, from which a graph of the model reads them.
        self.places = torch.zeros(3, vllm_config.scheduler_config.max_num_batched_tokens, dtype=torch.long)

    def _lend(self, mllm: MLLM) -> None:
        lend(mllm, {"visual": self.visual})

    def _untouched(self, **kwargs: Any) -> Any:
        found = self._encode(kwargs)
        if self.chosen_by is None:
            return found
        return [torch.cat([rows, rows.new_zeros(len(rows), COLUMNS)], 1) for rows in found]

    def _of_images(self, given: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        grids = given["image_grid_thw"]
        tiles = given["pixel_values"].split(grids.prod(1).tolist())
        pixels = torch.cat([tiles[row] for row in rows])
        return {**given, "pixel_values": pixels, "image_grid_thw": grids[list(rows)]}

    def _choose(
        self, choices: Sequence[EngineChoice], given: dict[str, Any], wishes: Sequence[Tensor]
    ) -> list[Tensor]:
        pictures = choices[0].mllm.pictures(given)
        tiles = given["pixel_values"].split(given["image_grid_thw"].prod(1).tolist())
        width, found = self.config.text_config.hidden_size, []
        for choice, picture, tile, wish, rows in zip(
            choices, pictures, tiles, wishes, self._encode(given), strict=True
        ):
            embeds, *added = rows.split(width, 1)  # Qwen3-VL: with the additions after first layers
            encoding = Encoding([tile], {}, None, None, None, ())
            kept = choice.choose(picture, prompt_of(wish, rows.device), encoding, embeds, added)
            marked = marks(kept.index, picture.grid[1]).to(rows)
            found.append(torch.cat([kept.embeds, *kept.added, marked], 1))
        return found

    def get_mrope_input_positions(self, input_tokens: Any, mm_features: Any) -> tuple[Tensor, int]:
        """Positions, in the prompt with all tokens, of the tokens that are present.

        All tokens of an image with a selection get the position where it begins, because the kept tokens are
        not known yet.
        """
        if self.chosen_by is None:
            return super().get_mrope_input_positions(input_tokens, mm_features)  # type: ignore[misc]
        whole, features = list[int](), []
        rows, starts, done = list[int](), list[int](), 0  # of the whole prompt
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            first, length = feature.mm_position.offset, feature.mm_position.length
            whole += input_tokens[done:first]
            rows += range(len(whole) - first + done, len(whole))
            own, begin = input_tokens[first : first + length], len(whole)
            if CARRIED in feature.data:
                grid = feature.data["image_grid_thw"].data
                own = [self.config.image_token_id] * (int(grid.prod()) // self.visual.spatial_merge_size**2)
                starts += range(len(rows), len(rows) + length)
            whole += own
            rows += range(begin, begin + length)
            place = replace(feature.mm_position, offset=begin, length=len(own))
            features.append(replace(feature, mm_position=place))
            done = first + length
        whole += input_tokens[done:]
        rows += range(len(whole) - len(input_tokens) + done, len(whole))
        every, delta = super().get_mrope_input_positions(whole, features)  # type: ignore[misc]
        positions = every[:, rows]
        positions[1:, starts] = positions[0, starts]  # where the image begins, as on the first axis
        return positions, delta + len(whole) - len(input_tokens)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """vLLM's embedding without the marks, which are stored for the next `forward` to shift positions."""
        if self.chosen_by is not None:
            self.places.zero_()
            if multimodal_embeddings is not None and len(multimodal_embeddings):
                assert is_multimodal is not None
                marked = torch.cat([rows[:, -COLUMNS:] for rows in multimodal_embeddings])
                at = is_multimodal.nonzero()[:, 0].to(self.places.device)
                self.places[:, at] = places(marked)
                multimodal_embeddings = [rows[:, :-COLUMNS] for rows in multimodal_embeddings]
        found: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return found

    def forward(self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.chosen_by is not None:
            positions = positions + F.pad(self.places, (0, positions.shape[-1] - self.places.shape[1]))
        return super().forward(input_ids, positions, *args, **kwargs)

    def get_encoder_cudagraph_config(self) -> Any:
        """vLLM's configuration; with a method without modalities: tower graphs would omit the selection."""
        found = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return found if self.chosen_by is None else replace(found, modalities=[])


class CountingPositions(Counting):
    """A processor that refuses a prompt whose positions exceed the model's maximum.

    An image takes as many positions as its longer side has tokens, regardless of how many are kept, so a
    prompt may have more positions than tokens.
    """

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        made = super().apply(inputs, timing_ctx)
        images = inputs.mm_data_items.get("image")
        if self.methods is None or not isinstance(images, ImageProcessorItems):
            return made
        kwargs, tokens = without(inputs.hf_processor_mm_kwargs), len(made["prompt_token_ids"])
        reach = tokens
        for number, place in enumerate(made["mm_placeholders"]["image"]):
            if images.get(number) is not None:  # otherwise a client gave only its identifier
                reach += self._side(images.get_image_size(number), kwargs) - place.length
        known = self.info.get_hf_config().get_text_config().max_position_embeddings
        if reach > max(tokens, known):
            raise ValueError(
                f"the prompt has {tokens} tokens, and positions up to {reach}, since images take as many as "
                f"without compression; the model knows {known}: give fewer or smaller images"
            )
        return made

    def _side(self, size: Any, kwargs: Mapping[str, Any]) -> int:
        """Number of tokens along the longer side of an image."""
        prepared, _ = self.info._get_vision_info(
            image_width=size.width, image_height=size.height, num_frames=1,
            image_processor=self.info.get_image_processor(**kwargs), mm_kwargs=kwargs,
        )  # fmt: skip
        vision = self.info.get_hf_config().vision_config
        longer: int = max(prepared.width, prepared.height)
        return longer // (vision.patch_size * vision.spatial_merge_size)


class Qwen2VLProcessor(CountingPositions, Qwen2VLMultiModalProcessor):
    """Qwen2-VL."""


class Qwen25VLProcessor(CountingPositions, Qwen2_5_VLMultiModalProcessor):
    """Qwen2.5-VL."""


class Qwen3VLProcessor(CountingPositions, Qwen3VLMultiModalProcessor):
    """Qwen3-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class CompressedQwen2VL(Repositioned, Qwen2VLForConditionalGeneration):
    """Qwen2-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class CompressedQwen25VL(Repositioned, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class CompressedQwen3VL(Repositioned, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, whose tower adds to visual tokens after the first decoder layers (DeepStack)."""
