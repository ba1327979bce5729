"""One interface for all multimodal model families.

An adapter defines the modules of a family (tower, projector, decoder, head), the source of its visual tokens
and the format of a prompt. It does not change the transformers model that it holds, except in `fix_grid`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedModel
from transformers.masking_utils import create_causal_mask

from compress.base import Traits, tower_layer
from compress.images import check_shape, rgb
from compress.models.caches import CACHE
from compress.models.clip import Clip
from compress.models.conversation import Conversation, Turn, check
from compress.models.processors import read
from compress.video import Video, Visual
from compress.weights import bytes_of, stored

Said = tuple[str, Sequence[str], str]  # role, "image" or "video" for each visual, and text


@dataclass(frozen=True)
class Embedded:
    """The decoder's input for one sample: S rows, the prompt, then the response."""

    embeds: Tensor  # [S, D] decoder input embeddings, visual tokens in place
    visual: Tensor  # [N] int64, rows of the visual tokens, ascending
    prompt: int  # rows [0, prompt) are the prompt, visual tokens included; the rest is the response
    response: Tensor  # [R] int64 response token ids, end-of-sequence included; empty without a response
    grid: tuple[int, int]  # rows x columns of the visual tokens; a video's frames are stacked by rows
    positions: Tensor  # [S], or [3, S] with M-RoPE
    added: Tensor | None = None  # [n, S, D] added to the rows after the first n layers; 0 for text


@dataclass(frozen=True)
class Picture:
    """The sources of the N visual tokens of one image: patches of the tower's tiles, and newlines.

    The tiles of a video are its frames, in time, and patches are the visual tokens of a frame.
    """

    grid: tuple[int, int]  # rows x columns of patches of a tile
    tiles: int  # tiles of the image in the tower; 0 is the whole image, the others are in the tower's order
    tile: Tensor  # [N] tile of each token, from 0; -1 = a newline, which has no patch
    patch: Tensor  # [N] patch of each token in its tile, row-major
    runs: tuple[int, ...] = ()  # lengths of contiguous runs in the prompt, with text between; () = one run
    whole: int = 0  # index of the whole image among the tower's tiles: first or last
    video: bool = False

    def __len__(self) -> int:
        return len(self.tile)

    @classmethod
    def of_grid(cls, grid: tuple[int, int], device: torch.device, runs: tuple[int, ...] = ()) -> Self:
        """The picture of an image with one tile and one token per patch."""
        patch = torch.arange(grid[0] * grid[1], device=device)
        return cls(grid, 1, torch.zeros_like(patch), patch, runs)

    @classmethod
    def of_video(
        cls, frames: int, grid: tuple[int, int], device: torch.device, *, apart: bool = False,
        newline: bool = False,
    ) -> Self:  # fmt: skip
        """The picture of a video with one token per patch of its frames.

        With `apart`, text separates the frames; with `newline`, a newline ends the video.
        """
        size = grid[0] * grid[1]
        every = torch.arange(frames * size, device=device)
        end = every.new_full((int(newline),), -1)
        tile, patch = torch.cat([every // size, end]), torch.cat([every % size, end])
        return cls(grid, frames, tile, patch, (size,) * frames if apart else (), video=True)

    @cached_property
    def patches(self) -> Tensor:
        """Indices [M] of the tokens that are not newlines, ascending."""
        return (self.tile >= 0).nonzero()[:, 0]


class MLLM(ABC):
    """A multimodal model with its processor, constructed by `load` (from a name) or `adapt` (from a model).

    Modules of the model are typed `Any`, because their attributes depend on the family.
    """

    processor_parts: tuple[str | type, str] | None = (
        None  # classes of processor and image processor, or their names in transformers; None = as saved
    )
    image_arguments: tuple[str, ...] = ("pixel_values",)  # the processor's outputs for the tower
    video_arguments: tuple[str, ...] = ()  # the same for videos; () = no videos
    nested: bool = False  # whether the processor takes a list of images per prompt
    clip_tower: bool = False  # whether methods can read the tower, and merge in it
    receives: bool = False  # whether methods can read the attention that patches receive instead of CLS's
    free_size: bool = False  # whether the number of visual tokens depends on the image's size
    mrope: bool = False  # rotary positions of several axes, which are never renumbered
    special_masks: bool = (
        False  # whether the decoder's masks are not plainly causal: kept rows are gathered from them
    )
    residuals: tuple[str, str] | None = None  # the decoder's arguments for features added to visual
    # tokens after its first layers: a mask [B, S], and a tensor [all visual tokens of the batch, D] per layer

    def __init__(self, model: PreTrainedModel, processor: Any = None, name: str = ""):
        self.model: Any = model
        self.processor: Any = None if processor is None else self.fitted(processor)
        self.name = name or type(model).__name__

    # Required of a family -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def tower_layers(self) -> Any:
        """The transformer blocks of the tower, each with `layer_norm1` and `self_attn`."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows x columns of the visual tokens of one tile, which is the whole image if there is only one."""

    @property
    @abstractmethod
    def image_side(self) -> int:
        """Side in pixels of the largest square image that the model sees at full resolution."""

    # Defaults for most families; the others override them ---------------------------------------------------

    @property
    def decoder(self) -> Any:
        """The language model: `.layers`, `.norm`, `.rotary_emb`, `.embed_tokens`, `.config`."""
        return self.model.model.language_model

    @property
    def tower(self) -> Any:
        """The vision encoder."""
        return self.model.model.vision_tower

    @property
    def projector(self) -> Any:
        """The projector: tower features [I, N, C] -> decoder width [I, N, D]."""
        return self.model.model.multi_modal_projector

    @property
    def tower_depth(self) -> int:
        """Number of tower blocks before the projector. Default: all."""
        layer = getattr(self.model.config, "vision_feature_layer", -1)
        return range(len(self.tower_layers) + 1)[layer]

    def tower_cls(self, output: Any) -> Tensor | None:
        """CLS feature [I, C] at the layer the projector reads, from the tower's output; None without CLS."""
        return None

    # For families with `receives` ---------------------------------------------------------------------------

    def tower_block(self, layer: float) -> int:
        """The tower block to read for `layer`: one in which all patches of an image attend to each other."""
        return tower_layer(layer, len(self.tower_layers))

    def tower_groups(self, picture: Picture) -> Tensor:
        """Indices [P, k] of the tower's rows that form each of the P tokens of a tile; CLS is a row too."""
        return torch.arange(self.tile_tokens, device=self.index_device)[:, None]

    def of_tokens(self, picture: Picture, signal: Tensor) -> Tensor:
        """A signal [..., P] of a tile's tokens: means over the signal [..., M] of its rows in the tower."""
        return signal[..., self.tower_groups(picture)].mean(-1)

    @property
    def pools(self) -> bool:
        """Whether the tower has a pooling head, see `pooled`."""
        return False

    def pooled(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """The pooling head's feature [C] of a tile with last states [M, C], and its attention [M] to them."""
        raise NotImplementedError

    # For families with `video_arguments` --------------------------------------------------------------------

    def video_inputs(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        """The tower's inputs for videos, by name."""
        raise NotImplementedError

    def video_prompt(self, video: Video) -> str:
        """The text that replaces `video_token` in a prompt; it holds this token once per visual token."""
        raise NotImplementedError

    def videos(self, given: Mapping[str, Any]) -> list[Picture]:
        """The videos among the arguments of a call of the model, in the order of their placeholders."""
        raise NotImplementedError

    def video_ids(self, frames: int) -> list[int]:
        """The ids of a video of `frames` frames of random pixels in a prompt, for measuring time."""
        raise NotImplementedError

    def video_noise(self, ids: Tensor, frames: int, draw: torch.Generator) -> dict[str, Tensor]:
        """The processor's outputs besides `ids` [B, S] with `video_ids` in each row, with random pixels."""
        raise NotImplementedError

    # Shared by all families ---------------------------------------------------------------------------------

    def fitted(self, processor: Any) -> Any:
        """The processor, or a copy with the values that the model's configuration requires."""
        return processor

    @property
    def head(self) -> Any:
        """Hidden states [..., D] -> logits [..., V]."""
        return self.model.get_output_embeddings()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.decoder.layers)

    @property
    def tile_tokens(self) -> int:
        """Visual tokens of one tile before any compression."""
        rows, columns = self.grid
        return rows * columns

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one image before any compression; the maximum if images differ."""
        return self.tile_tokens

    @property
    def one_size(self) -> bool:
        """Whether every image has `visual_tokens` tokens, so that a ratio is one count for all."""
        return not self.free_size

    def tokens_of(self, visual: Visual) -> int:
        """Visual tokens of this image or video before any compression.

        For an image, the default is `visual_tokens`. ValueError for a video if the family reads none.
        """
        if isinstance(visual, Video):
            self.check_videos()
            return self.video_prompt(visual).count(self.video_token)
        return self._tokens_of(visual)

    def _tokens_of(self, image: Image) -> int:
        return self.visual_tokens

    def check_videos(self) -> None:
        """ValueError if the family reads no videos."""
        if not self.video_arguments:
            raise ValueError(
                f"{self.name} ({type(self).__name__}) reads no videos: give their frames as images"
            )

    @property
    def video_token(self) -> str:
        """The token that the chat template writes for a video."""
        token: str = self._processor().tokenizer.convert_ids_to_tokens(self.video_token_id)
        return token

    @property
    def traits(self) -> Traits:
        """The properties of the model that methods may use."""
        width = self.decoder.config.hidden_size
        return Traits(self.layers, width, self.visual_tokens, mrope=self.mrope)

    def clip(self, source: str = "") -> Clip:
        """CLIP's text tower and projections for this model's tower, from a folder or hub name, or its own.

        ValueError for a model without a CLIP tower, for one whose configuration names no CLIP, and for a CLIP
        that does not fit.
        """
        raise ValueError(
            f"{self.name} ({type(self).__name__}) has no CLIP tower, so patches cannot be compared with words"
        )

    def question(self, ids: Tensor) -> str:
        """The text of a prompt's ids [S], without images and the chat format's text around it."""
        before, after = self._around
        return self._said(ids).removeprefix(before).removesuffix(after).strip()

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """The token ids of these words, each encoded on its own."""
        tokenizer = self._processor().tokenizer
        return [one for word in words for one in tokenizer(word, add_special_tokens=False)["input_ids"]]

    def embed_ids(self, ids: Tensor) -> Tensor:
        """The decoder's input embeddings [M, D] of token ids [M]."""
        weight = self.model.get_input_embeddings().weight.detach()
        return weight[ids.to(weight.device)]

    def _said(self, ids: Tensor) -> str:
        words = ids[~self.placeholders(ids)]
        text: str = self._processor().tokenizer.decode(words, skip_special_tokens=True)
        return text.strip()

    @cached_property
    def _around(self) -> tuple[str, str]:
        """The text of the chat format before and after a question about an image."""
        ids = self._processor().tokenizer(self.prompt("what"))["input_ids"]
        before, found, after = self._said(torch.tensor(ids)).rpartition("what")
        return (before, after) if found else ("", "")

    def fix_grid(self) -> None:
        """Give every image the same number of visual tokens; ValueError for a family without such a mode."""
        raise ValueError(f"{self.name} ({type(self).__name__}) has no fixed grid: leave anyres at 'native'")

    def tower_pixels(self, args: tuple, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        """The tiles in a call of the tower, in order."""
        pixels: Tensor = args[0] if args else kwargs["pixel_values"]
        return list(pixels)

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        """The images among the arguments of a call of the model, in the order of their placeholders.

        Default: one tile each.
        """
        pixels = given.get("pixel_values")
        if pixels is None:  # features instead of pixels: placeholders give the number of images
            ids = given["input_ids"]
            count = int((ids == self.image_token_id).sum()) // self.visual_tokens
        else:
            count = len(pixels)
        return [self._tile] * count

    def visuals(self, given: Mapping[str, Any], ids: NDArray[np.int64] | None = None) -> list[Picture]:
        """The images and videos among the arguments of a call of the model, in the order of the prompts.

        `ids` are the call's ids on the host, if already available. Beams that share the images or videos of
        their prompt count as one prompt.
        """
        if ids is None:
            ids = given["input_ids"].cpu().numpy()
        shown = np.where(ids == self.image_token_id, 1, 0)
        if self.video_token_id is not None:
            shown[ids == self.video_token_id] = 2
        images = self.pictures(given) if (shown == 1).any() else []
        videos = self.videos(given) if (shown == 2).any() else []
        if not (images and videos):
            return images or videos
        beams = max(1, int((shown > 0).sum()) // sum(map(len, (*images, *videos))))
        left = {1: iter(images), 2: iter(videos)}
        found: list[Picture] = []
        for row in shown[::beams]:
            kinds, at = row[row > 0].tolist(), 0
            while at < len(kinds) and (picture := next(left[kinds[at]], None)) is not None:
                found.append(picture)
                at += len(picture)
        return found

    @property
    def index_device(self) -> torch.device:
        """Device of the indices of visual tokens: the model's, or the CPU for a model on the meta device."""
        device: torch.device = self.model.device
        return torch.device("cpu") if device.type == "meta" else device

    @cached_property
    def _tile(self) -> Picture:
        return Picture.of_grid(self.grid, self.index_device)

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        """The processor's outputs besides `ids` [B, S], with random pixels, for measuring time.

        One image in each row, of the size with the most visual tokens.
        """
        side = self.model.config.vision_config.image_size
        return {"pixel_values": self._pixels((len(ids), 3, side, side), draw)}

    def _pixels(self, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=draw, device=draw.device).to(self.model.dtype)

    def image_features(self, inputs: BatchFeature) -> Any:
        """The model's features of the images of prepared inputs: an output with `pooler_output`."""
        given = {name: inputs[name] for name in self.image_arguments if name in inputs}
        return self.model.base_model.get_image_features(**given)

    def video_features(self, inputs: BatchFeature) -> Any:
        """The model's features of the videos of prepared inputs."""
        first, *others = self.video_arguments  # some releases name the first as for images
        given = {name: inputs[name] for name in others if name in inputs}
        return self.model.base_model.get_video_features(inputs[first], **given)

    def merge(self, inputs: BatchFeature, features: Any = None) -> Tensor:
        """Decoder input embeddings [B, S, D] of prepared inputs, visual tokens in place.

        `features` are those of the images, or of the videos; prompts with both are not supported.
        """
        ids = inputs["input_ids"]
        embeds = self.decoder.embed_tokens(ids)
        made = self.image_features(inputs) if features is None else features
        visual = torch.cat(list(made.pooler_output))
        merged: Tensor = embeds.masked_scatter(self.placeholders(ids)[..., None], visual.to(embeds))
        return merged

    def added(self, features: Any) -> Sequence[Tensor]:
        """Features [all visual tokens, D] that the decoder adds after each of its first layers."""
        return ()

    def position_offsets(self, given: Mapping[str, Any], sizes: Tensor) -> Tensor | None:
        """Offsets [B] from the prefill of this call for `next_positions`; `sizes` [B] as in that method."""
        return None

    def next_positions(
        self, sizes: Sequence[int], length: int, decoded: int, count: int, offsets: Tensor | None
    ) -> Tensor:
        """Position ids [1, count] of the next tokens after a prefill of `length` rows, and `decoded` tokens.

        `sizes` is the number of rows of each sample without padding. The result equals the positions of a
        call without ids on an uncompressed cache.
        """
        return length + decoded + torch.arange(count)[None]

    def rotary(self, hidden: Tensor, ids: Tensor, layer: int) -> Any:
        """The rotary tables of decoder layer `layer` for positions `ids` [B, L], or [3, B, L]."""
        return self.decoder.rotary_emb(hidden, position_ids=ids)

    def recurrent(self, layer: int) -> bool:
        """Whether a decoder layer has a recurrent state instead of attention and reads tokens one by one."""
        kinds = getattr(self.decoder.config, "layer_types", None)
        return kinds is not None and kinds[layer] == "linear_attention"

    def placeholders(self, ids: Any) -> Any:
        """Mask of the placeholders of visual tokens in ids, as a tensor or an array."""
        images, video = ids == self.image_token_id, self.video_token_id
        return images if video is None else images | (ids == video)

    def positions(self, inputs: BatchFeature, response: int) -> Tensor:
        """Positions [S] (M-RoPE: [3, S]) of one prepared sample and a response of `response` tokens."""
        return torch.arange(inputs["input_ids"].shape[1] + response, device=self.model.device)

    @property
    def image_token_id(self) -> int:
        return self.model.config.image_token_id

    @property
    def video_token_id(self) -> int | None:
        """The id of a video's placeholder; None if the family reads no videos."""
        return self.model.config.video_token_id if self.video_arguments else None

    def causal_mask(self, hidden: Tensor, mask: Tensor | None, cache: Any, layer: int) -> Any:
        """The attention mask of a decoder layer, for its own cache and the current attention kernel.

        `hidden` [B, L, D] are the new rows; `mask` [B, cached + L] bool, False = padding, None = no padding.
        """
        return create_causal_mask(
            config=self.decoder.config,
            inputs_embeds=hidden,
            attention_mask=None if mask is None else mask.to(hidden.device),
            layer_idx=layer,
            **{CACHE: cache},
        )

    def attention_mask(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """An attention mask of rows [B, L, D] from `seen` [B, L, K] bool, for the current kernel."""
        seen = seen[:, None].to(hidden.device)
        if self.decoder.config._attn_implementation == "sdpa":
            return seen
        hides = torch.finfo(hidden.dtype).min
        return torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~seen, hides)

    def prepare(self, images: Sequence[Visual], questions: Sequence[str]) -> BatchFeature:
        """Inputs for `model.generate(**inputs)`: chat format, left padding, on the model's device.

        One image, or one video, for each question.
        """
        if len(images) != len(questions) or not questions:
            raise ValueError(
                f"{len(images)} images and {len(questions)} questions: give one image per question"
            )
        for number, question in enumerate(questions):
            if not question.strip():
                raise ValueError(f"question {number} is empty: ask something about the image")
        asked = zip(images, questions, strict=True)
        return self.prepare_conversations([[Turn("user", question, [image])] for image, question in asked])

    def prepare_conversations(self, conversations: Sequence[Conversation]) -> BatchFeature:
        """Inputs for the next answer of each conversation, as `prepare` gives them for one question.

        All turns are prompt: a method gets an image's tokens, the number of text tokens before it, and the
        text of all turns, earlier answers included. A budget applies to each image, and to each video as a
        whole.
        """
        for number, conversation in enumerate(conversations):
            check(conversation, number)
        turns = [turn for conversation in conversations for turn in conversation]
        visuals = [one if isinstance(one, Video) else rgb(one) for turn in turns for one in turn.images]
        inputs = self.encode(visuals, [self.chat(conversation) for conversation in conversations])
        for name in {"pixel_values", "pixel_values_videos"} & inputs.keys():
            inputs[name] = inputs[name].to(self.model.dtype)
        return inputs.to(self.model.device)

    def encode(self, visuals: Sequence[Visual], prompts: Sequence[str]) -> BatchFeature:
        """Pixels and ids; images, in RGB, and videos are in the order in which the prompts name them.

        ValueError for an image or frame that is too thin, before it is resized.
        """
        for visual in visuals:
            check_shape(visual.size)
        videos = [one for one in visuals if isinstance(one, Video)]
        images = [one for one in visuals if not isinstance(one, Video)]
        if not videos:
            return self._encoded(images, prompts)
        left, told = iter(videos), []
        for prompt in prompts:
            first, *others = prompt.split(self.video_token)
            told.append(first + "".join(self.video_prompt(next(left)) + other for other in others))
        encoded = self._encoded(images, told)
        if "mm_token_type_ids" in encoded:
            encoded["mm_token_type_ids"][encoded["input_ids"] == self.video_token_id] = 2
        encoded.update(self.video_inputs(videos))
        return encoded

    def _encoded(self, images: Sequence[Image], prompts: Sequence[str]) -> BatchFeature:
        processor, given = self._processor(), list[Any](images)
        if self.nested:
            left, counts = iter(images), [prompt.count(processor.image_token) for prompt in prompts]
            given = [[next(left) for _ in range(count)] for count in counts]
        alone = with_values(processor, video_token=None)  # stock processors reject prepared videos
        encoded: BatchFeature = alone(
            images=given if images else None, text=list(prompts), padding=True, return_tensors="pt"
        )
        return encoded

    def prompt(self, question: str) -> str:
        """The question with one image in the chat format of the model."""
        return self._formatted([("user", ["image"], question)])

    def chat(self, conversation: Conversation) -> str:
        """The conversation, up to the requested answer, in the chat format of the model."""
        turns: list[Said] = []
        for turn in conversation:
            kinds = ["video" if isinstance(one, Video) else "image" for one in turn.images]
            if "video" in kinds:
                self.check_videos()
            turns.append((turn.role, kinds, turn.text))
        return self._formatted(turns)

    def _formatted(self, turns: Sequence[Said]) -> str:
        if not self._takes_parts:
            raise ValueError(
                f"the chat template of {self.name} does not take content as a list of images and texts: "
                f"set processor.chat_template to the one of the model's converted checkpoint"
            )
        return self._rendered(turns)

    def _rendered(self, turns: Sequence[Said]) -> str:
        messages = [
            {"role": role, "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": text}]}
            for role, kinds, text in turns
        ]
        said: str = self._processor().apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        videos = sum(kinds.count("video") for _, kinds, _ in turns)
        if videos and said.count(self.video_token) != videos:
            raise ValueError(
                f"the chat template of {self.name} writes no {self.video_token} for a video: set "
                f"processor.chat_template to the one of the model's converted checkpoint"
            )
        return said

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the chat template writes the token of an image; some expect content to be a string."""
        try:
            shown = self._rendered([("user", ["image"], "?")])
        except ValueError:  # there is no template
            raise
        except Exception:  # a template is a program that may raise any error
            return False
        return shown.count(self._processor().image_token) == 1

    @torch.no_grad()
    def embed(self, image: Visual, question: str, response: str | None = None) -> Embedded:
        """The decoder's input for one sample: the prompt, then the response, if any, with the end token."""
        inputs = self.prepare([image], [question])
        made = self.video_features if isinstance(image, Video) else self.image_features
        features = made(inputs)
        embeds = self.merge(inputs, features)[0]
        ids = embeds.new_empty(0, dtype=torch.long)
        if response is not None:
            tokenizer = self._processor().tokenizer
            answer = tokenizer(response, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([*answer, tokenizer.eos_token_id], device=embeds.device)
        visual = self.placeholders(inputs["input_ids"][0]).nonzero()[:, 0]
        rows = torch.cat([embeds, self.decoder.embed_tokens(ids)]) if len(ids) else embeds
        positions = self.positions(inputs, len(ids))
        (picture,) = self.visuals(inputs)
        rows_each, columns = picture.grid
        grid = rows_each * (picture.tiles if picture.video else 1), columns
        added = [torch.zeros_like(rows).index_copy(0, visual, each.to(rows)) for each in self.added(features)]
        deep = torch.stack(added) if added else None
        return Embedded(rows, visual, len(embeds), ids, grid, positions, deep)

    def answer(
        self, images: Sequence[Visual], questions: Sequence[str], *, max_new_tokens: int = 16
    ) -> list[str]:
        """Greedy answers, stripped; with fewer visual tokens inside `with attach(...)`."""
        return self._generate(self.prepare(images, questions), max_new_tokens)

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 16) -> list[str]:
        """The next answer of each conversation, as `answer` gives it for one question."""
        return self._generate(self.prepare_conversations(conversations), max_new_tokens)

    def _generate(self, inputs: BatchFeature, max_new_tokens: int) -> list[str]:
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
        """SHA-256 over configuration and weights: equal for equal models, in every process.

        The name of a CLIP next to the model (`clip`) is not included.
        """
        config = self.model.config.to_diff_dict()
        config = {
            key: value
            for key, value in config.items()
            if key not in ("transformers_version", "_name_or_path", "mm_vision_tower")
        }
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in stored(self.model.state_dict()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()

    @classmethod
    def read_processor(cls, source: str) -> Any:
        """The processor in a folder, with PIL: pixels are the same with and without torchvision."""
        if cls.processor_parts is not None:
            return read(source, *cls.processor_parts)
        return AutoProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)

    def _processor(self) -> Any:
        if self.processor is None:
            raise ValueError(f"{self.name} has no processor: load it by name, or adapt(model, processor)")
        return self.processor


def with_values(owner: Any, **values: Any) -> Any:
    """`owner` if its attributes have these values, otherwise a copy that has them."""
    if all(getattr(owner, name, None) == value for name, value in values.items()):
        return owner
    changed = copy(owner)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def squares(grid: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """Patches [P, side * side], row-major, of each square in a `grid` of squares."""
    rows, columns = grid
    patch = torch.arange(rows * columns * side**2, device=device).view(rows, side, columns, side)
    return patch.transpose(1, 2).reshape(rows * columns, side**2)


def runs_of(placeholder: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of every run of True in a row [S]."""
    edges = np.flatnonzero(np.diff(np.pad(placeholder.astype(np.int8), 1))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
