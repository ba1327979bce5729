"""Kept visual embeddings of images, for engines that take embeddings in place of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from compress.attach.tower import TowerSession
from compress.base import VISION, Selector
from compress.engines.choosing import EngineChoice, EnginePrompt, by_image
from compress.keep import Keep
from compress.models.conversation import Turn
from compress.models.loading import adapt


@torch.no_grad()
def embed(
    model: Any, selector: Selector, images: Sequence[Image], question: str, keep: Keep = 64
) -> list[Tensor]:
    """Return the kept visual embeddings [K, D] of each image of a prompt with the images before the question.

    The decoder would read the same embeddings, in the same order, under `attach(model, selector, keep,
    positions="compact")`. An engine that takes embeddings in place of images (vLLM: enable_mm_embeds)
    reserves K placeholders for each image and needs no knowledge of the selection. ValueError for a method
    that acts inside the decoder, and for a model whose engine derives the number of placeholders from the
    image's size (M-RoPE).
    """
    mllm = adapt(model)
    if mllm.mrope:
        raise ValueError(
            f"{mllm.name} has positions of several axes, which engines derive from the image's size: fewer "
            f"embeddings do not fit"
        )
    choice = EngineChoice(mllm, selector, keep, mllm.decoder.embed_tokens)
    inputs = mllm.prepare_conversations([[Turn("user", question, images)]])
    pictures = mllm.pictures(inputs)
    left = [choice.schedule(picture).get(VISION) for picture in pictures]
    acts = next((count for count in left if count is not None), None)  # tokens kept at the tower
    tower = TowerSession(mllm, selector, acts, False)
    try:
        tower.hook()
        features = mllm.image_features(inputs)
        assert tower.encoding is not None
        encodings = by_image(tower.encoding, pictures)
    finally:
        tower.unhook()
    if acts is not None and None in left:  # the projector was given nothing, and small images keep all
        features = mllm.image_features(inputs)
    counts = [len(picture) for picture in pictures]
    rows = torch.cat(list(features.pooler_output)).split(counts)
    text = collapsed(inputs["input_ids"][0], mllm.image_token_id, counts)
    prompts = EnginePrompt.read(text, mllm.image_token_id)
    return [
        choice.choose(picture, prompt, encoding, own if at_tower is None else None).embeds
        for picture, prompt, encoding, own, at_tower in zip(
            pictures, prompts, encodings, rows, left, strict=True
        )
    ]


def collapsed(ids: Tensor, image: int, counts: Sequence[int]) -> Tensor:
    """Reduce the placeholders of each image in a prompt's ids [S], given by `counts`, to one."""
    stays = ids != image
    starts = (~stays).nonzero()[:, 0]
    first = 0
    for count in counts:
        stays[starts[first]] = True
        first += count
    return ids[stays]
