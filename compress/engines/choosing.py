"""The selection of visual tokens for an inference engine, made before its decoder runs.

An engine first reserves the placeholder tokens of an image in the prompt, then encodes the image, and runs
the prefill last, in chunks of any size. So a method must act before the decoder and keep a number of tokens
that follows from the image's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.attach.layout import read_layout
from compress.attach.prefill import Prefill
from compress.attach.tower import Encoding, TowerInput
from compress.base import INPUT, VISION, Positions, Selector, TowerSelector
from compress.budget import plan
from compress.keep import Keep, count_of, read_keep
from compress.models.mllm import MLLM, Picture


@dataclass(frozen=True)
class EnginePrompt:
    """The text tokens of a prompt, and the position of one of its images among them."""

    ids: Tensor  # [T] int64
    before: int  # number of text tokens that precede the image

    @classmethod
    def read(cls, ids: Tensor, image: int) -> list[EnginePrompt]:
        """Return one object for each id `image` in a prompt's ids [S], in order."""
        shown = ids == image
        text = ids[~shown]
        return [cls(text, place - number) for number, place in enumerate(shown.nonzero()[:, 0].tolist())]


@dataclass(frozen=True)
class Kept:
    """The tokens of one image that enter the decoder: embeddings, and indices among the original tokens."""

    embeds: Tensor  # [K, D]
    index: Tensor  # [K], -1 = a token that represents the whole image
    added: Sequence[Tensor] = ()  # each [K, D], residuals that the decoder adds after its first layers


class EngineChoice:
    """One method at one budget, for the images of one model; `embed` maps ids [T] to embeddings [T, D].

    ValueError for a method that acts inside the decoder or whose token counts are not known in advance.
    """

    def __init__(self, mllm: MLLM, selector: Selector, keep: Keep, embed: Callable[[Tensor], Tensor]):
        self.mllm, self.selector, self.keep, self.embed = mllm, selector, read_keep(keep), embed
        check(mllm, selector, self.keep)
        self.positions: Positions = "original" if mllm.mrope else "compact"
        self.schedules: dict[int, dict[int, int]] = {}  # by the number of the image's tokens

    @property
    def reads_prompt(self) -> bool:
        """Whether the selection depends on the prompt; random methods derive their seed from it too."""
        return self.selector.reads_text or self.selector.reads_clip is not None or self.selector.draws > 1

    def schedule(self, picture: Picture) -> dict[int, int]:
        tokens = len(picture)
        if tokens not in self.schedules:
            left = min(count_of(self.keep, tokens), tokens)
            self.schedules[tokens] = plan(self.selector, tokens, left, self.mllm.layers)
        return self.schedules[tokens]

    def count(self, picture: Picture) -> int:
        """Return the number of tokens of an image that enter the decoder."""
        schedule = self.schedule(picture)
        if VISION in schedule:  # newline tokens, which the tower does not produce, are dropped
            return min(schedule[VISION], len(picture.patches))
        return schedule.get(INPUT, len(picture))

    def choose(
        self, picture: Picture, prompt: EnginePrompt, encoding: Encoding, embeds: Tensor | None,
        added: Sequence[Tensor] = (),
    ) -> Kept:  # fmt: skip
        """Return the tokens of one image that enter the decoder.

        `encoding` holds the tower's outputs for the image's tiles. `embeds` [N, D] are its projected tokens
        in the order of the prompt, or None for a method that acts at the tower. `added`, each [N, D], are
        residuals that the decoder adds after its first layers. RuntimeError if the number of tokens that the
        method keeps differs from `count`.
        """
        schedule, device = self.schedule(picture), prompt.ids.device
        text = self.embed(prompt.ids)
        image = torch.full((len(picture),), self.mllm.image_token_id, device=device, dtype=prompt.ids.dtype)
        ids = torch.cat([prompt.ids[: prompt.before], image, prompt.ids[prompt.before :]])[None]
        visual = text.new_zeros(len(picture), text.shape[-1]) if embeds is None else embeds.to(text)
        hidden = torch.cat([text[: prompt.before], visual, text[prompt.before :]])[None]
        placeholder = torch.zeros(ids.shape, dtype=torch.bool)
        placeholder[0, prompt.before : prompt.before + len(picture)] = True
        layout = read_layout(placeholder.numpy(), None, [(len(picture),)], device)
        place = 0, 0
        prefill = Prefill(
            self.mllm, self.selector, self.positions, ids, layout, {place: picture}, {place: schedule},
            embed=self.embed,
        )  # fmt: skip
        prefill.selections.signals.receive(encoding)
        if self.mllm.residuals is not None and added:
            prefill.take_residuals({self.mllm.residuals[1]: list(added)})
        entered = prefill.enter_all({"inputs_embeds": hidden})["inputs_embeds"]
        prefill.records(0)  # checks the form of the method's selection
        left = prefill.layers[0]
        rows = left.visual(place)
        if len(rows) != (reserved := self.count(picture)):
            raise RuntimeError(
                f"{type(self.selector).__name__} left {len(rows)} tokens of an image, and {reserved} places "
                f"are reserved for it"
            )
        return Kept(entered[0, rows], left.tokens(place), prefill.residuals.get(place, added))


def check(mllm: MLLM, selector: Selector, keep: Keep) -> None:
    """Raise ValueError unless the method acts on images, before the decoder, with a fixed token count."""
    name = type(selector).__name__
    if selector.video:
        raise ValueError(
            f"{name} chooses between the frames of a video, and an engine compresses images: choose a method "
            f"for images"
        )
    if selector.adaptive:
        raise ValueError(
            f"{name} decides by itself how many tokens stay, and an engine reserves their places before it "
            f"sees the image: choose a method with a budget"
        )
    tokens = mllm.visual_tokens
    if not 1 <= count_of(keep, tokens) <= tokens:
        raise ValueError(f"keep={keep}: choose between 1 and the {tokens} visual tokens of {mllm.name}")
    depths = selector.schedule(tokens, min(count_of(keep, tokens), tokens), mllm.layers)
    if (deepest := max(depths, default=INPUT)) > INPUT:
        raise ValueError(
            f"{name} acts inside the decoder, before layer {deepest}, and an engine has one length and one "
            f"cache for all layers: choose a method that acts before the decoder"
        )


def check_tower(mllm: MLLM, selector: Selector) -> None:
    """Raise ValueError if the method changes the tower or needs signals that an engine does not provide."""
    name = type(selector).__name__
    depths = selector.schedule(mllm.visual_tokens, 1, mllm.layers)
    if isinstance(selector, TowerSelector) and VISION in depths:
        raise ValueError(f"{name} shortens the sequence inside the tower, which is the engine's own")
    if selector.cls == "received":
        raise ValueError(
            f"{name} with cls=received reads attention that the engine's tower does not hand over"
        )
    if not mllm.clip_tower and (VISION in depths or selector.tower_layers):
        raise ValueError(
            f"{name} works on the tokens of a CLIP tower, which {mllm.name} does not have: choose a method "
            f"that acts at the decoder's input"
        )


def part(encoding: Encoding, first: int, tiles: int) -> Encoding:
    """Return the encoding of `tiles` tiles, starting with tile `first`."""
    chosen = slice(first, first + tiles)

    def rows(given: TowerInput) -> TowerInput:
        return TowerInput(given.hidden[chosen], given.crowds[chosen], given.rotary)

    return replace(
        encoding,
        pixels=encoding.pixels[chosen],
        inputs={layer: rows(given) for layer, given in encoding.inputs.items()},
        cls=None if encoding.cls is None else encoding.cls[chosen],
        features=None if encoding.features is None else encoding.features[chosen],
        crowds=None if encoding.crowds is None else encoding.crowds[chosen],
        flops=encoding.flops[chosen],
    )


def by_image(encoding: Encoding, pictures: Sequence[Picture]) -> list[Encoding]:
    """Split the encoding of all tiles into one encoding per image."""
    found, first = [], 0
    for picture in pictures:
        found.append(part(encoding, first, picture.tiles))
        first += picture.tiles
    return found
