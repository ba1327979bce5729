"""Stage 1 of the recipe: a CLIP tower whose patches encode their contents and whose CLS encodes the scene.

Dense supervision (kind and colour of every patch, predicted from the penultimate layer, which LLaVA reads)
first uses random windows of 6 x 6 patches, at a quarter of the cost, then whole scenes together with the CLS
objective: predict the phrases ("red star") that are true of an image. It is CLIP's image-text contrast with a
bag of phrases as text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from compress.micro.recipe.optim import Optimiser, checkpointed
from compress.micro.world import (
    COLORS,
    GRID,
    PATCH,
    SHAPES,
    SIDE,
    SPOILS,
    TEXTURES,
    Scene,
    patch_labels,
    scene,
)
from compress.parallel.workers import new_processes

KINDS = (*SHAPES, *"0123456789")  # contents of a patch; a number's patch shows one of its digits
PATCHES = GRID * GRID  # of a tile
PHRASES = len(COLORS) * (len(SHAPES) + 1)

IGNORE = -100
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class SceneBatch:
    """Rendered scenes with labels of their patches: 144 for one tile, 720 for an image in five tiles."""

    pixels: NDArray[np.uint8]  # [n, 96, 96, 3], or [n, 5, 96, 96, 3]: thumbnail, then the quarters
    kind: NDArray[np.int64]  # [n, 144 or 720] index in KINDS; -1 background, IGNORE ambiguous
    color: NDArray[np.int64]  # likewise, index in COLORS
    owner: NDArray[np.int64]  # likewise, number of the scene's thing, from 0; -1 background
    texture: NDArray[np.int64]  # [n] index in TEXTURES
    phrases: NDArray[np.bool_]  # [n, PHRASES] which colour-kind pairs the scene contains

    @property
    def tiles(self) -> SceneBatch:
        """All tiles as separate images, with the texture of the image and the phrases of their patches."""
        kind, color, owner = (part.reshape(-1, PATCHES) for part in (self.kind, self.color, self.owner))
        texture = self.texture.repeat(len(kind) // len(self.texture))
        told = color * (len(SHAPES) + 1) + kind.clip(max=len(SHAPES))  # digits are numbers
        phrases = np.zeros((len(kind), PHRASES + 1), bool)
        np.put_along_axis(phrases, np.where(kind >= 0, told, PHRASES), True, axis=1)
        return SceneBatch(
            self.pixels.reshape(-1, SIDE, SIDE, 3), kind, color, owner, texture, phrases[:, :PHRASES]
        )


def training_spoil(seed: int) -> str | None:
    """Return the defect of a training scene; one in five has one, as VizWiz pictures do."""
    return SPOILS[seed // 5 % 3] if seed % 5 == 4 else None


def label_patches(
    made: Scene, scale: int = 1
) -> tuple[Image.Image, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the photograph, and kind, colour and owner [rows, columns] of its patches; see `SceneBatch`."""
    image, owner, cover = patch_labels(made, scale)
    kind, color = np.full(owner.shape, -1), np.full(owner.shape, -1)
    for (row, column), thing_index in np.ndenumerate(owner):
        if thing_index < 0:
            continue
        if cover[row, column] < 0.15:
            kind[row, column] = color[row, column] = IGNORE
            continue
        thing = made.things[thing_index]
        color[row, column] = list(COLORS).index(thing.color)
        if thing.kind == "number":
            second = len(thing.text) == 2 and (column + 0.5) * PATCH > thing.x * scale
            kind[row, column] = len(SHAPES) + int(thing.text[int(second)])
        else:
            kind[row, column] = SHAPES.index(thing.kind)
    return image, kind, color, owner


def label_scene(made: Scene, tiled: bool = False) -> tuple[NDArray, ...]:
    """Return the row of one scene in a `SceneBatch`: pixels, kind, colour, owner, texture and phrases."""
    image, *labels = label_patches(made)
    columns = [np.asarray(image), *(label.ravel() for label in labels)]
    if tiled:
        image, *finer = label_patches(made, scale=2)
        small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))[None]
        quarters = [np.concatenate([small, cut(np.asarray(image), SIDE)])]
        quarters += [
            np.concatenate([label, cut(fine, GRID).ravel()])
            for label, fine in zip(columns[1:], finer, strict=True)
        ]
        columns = quarters
    phrases = np.zeros(PHRASES, bool)
    for thing in made.visible():
        kinds = (*SHAPES, "number")
        phrases[list(COLORS).index(thing.color) * len(kinds) + kinds.index(thing.kind)] = True
    return (*columns, np.array(TEXTURES.index(made.texture)), phrases)


def training_row(split: str, seed: int, tiled: bool) -> tuple[NDArray, ...]:
    return label_scene(scene(split, seed, training_spoil(seed)), tiled)


def cut(image: NDArray, side: int) -> NDArray:
    """Cut [h, w, ...] into squares, row by row: [h / side * w / side, side, side, ...]."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    parts = image.reshape(rows, side, columns, side, *image.shape[2:])
    return parts.swapaxes(1, 2).reshape(rows * columns, side, side, *image.shape[2:])


def render_scenes(split: str, seeds: range, tiled: bool = False, workers: int = 2) -> SceneBatch:
    """Render and label the scenes of `seeds`, in order, in `workers` processes."""
    with new_processes().Pool(workers) as pool:
        rows = pool.starmap(training_row, [(split, s, tiled) for s in seeds], chunksize=64)
    return SceneBatch(*(np.stack(column) for column in zip(*rows, strict=True)))


def sine_cosine(side: int, width: int) -> Tensor:
    """Return a 2D position code [side * side, width], an initialisation with which tables learn faster."""
    omega = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    at = torch.arange(side)[:, None] * omega
    line = torch.cat([at.sin(), at.cos()], 1)
    code = torch.cat([line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)], 2)
    return code.reshape(side * side, width)


def new_tower(config: CLIPVisionConfig) -> CLIPVisionModel:
    tower = CLIPVisionModel(config)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight[1:] = 0.5 * sine_cosine(GRID, config.hidden_size)
    return tower


def features(tower: CLIPVisionModel, pixels: Tensor, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return penultimate and last hidden states [B, 1 + n, D] of normalised pixels [B, 3, h, w].

    If `pixels` is only a window of the scene, `window` [B, n] is the place of each patch in the scene.
    """
    e = tower.embeddings
    patches = e.patch_embedding(pixels).flatten(2).transpose(1, 2)
    table = e.position_embedding.weight
    place = table[1:][window] if window is not None else table[1:]
    x = torch.cat([(e.class_embedding + table[0]).expand(len(pixels), 1, -1), patches + place], 1)
    x = tower.pre_layrnorm(x)
    before = x
    for layer in tower.encoder.layers:
        before, x = x, layer(x, attention_mask=None)
    return before, x


class TowerHeads(nn.Module):
    """Prediction heads for the tower's pre-training, discarded afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind = nn.Linear(width, len(KINDS) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.texture = nn.Linear(width, len(TEXTURES))
        self.phrase = nn.Linear(width, PHRASES)
        self.early_phrase = nn.Linear(width, PHRASES)
        self.row, self.column = nn.Linear(width, GRID), nn.Linear(width, GRID)

    def patch_loss(self, x: Tensor, kind: Tensor, color: Tensor, texture: Tensor) -> Tensor:
        background = (kind == -1) & (torch.rand(kind.shape) < 0.3)
        texture = torch.where(background, texture[:, None], IGNORE)
        kind = torch.where(kind == -1, len(KINDS), kind)
        color = torch.where(color == -1, len(COLORS), color)
        losses = [
            F.cross_entropy(head(x).flatten(0, 1), target.flatten(), ignore_index=IGNORE)
            for head, target in ((self.kind, kind), (self.color, color), (self.texture, texture))
        ]
        return losses[0] * 2 + losses[1] + 0.3 * losses[2]

    def place_loss(self, x: Tensor) -> Tensor:
        """Return the loss of predicting positions; without it, a tower loses them and "left of" fails."""
        place = torch.arange(GRID * GRID).expand(len(x), -1).flatten()
        flat = x.flatten(0, 1)
        row, column = self.row(flat), self.column(flat)
        return F.cross_entropy(row, place // GRID) + F.cross_entropy(column, place % GRID)

    def phrase_loss(self, cls: Tensor, early: Tensor, phrases: Tensor) -> Tensor:
        truth = phrases.float()
        weight = torch.full((PHRASES,), 5.0)
        late_loss, early_loss = (
            F.binary_cross_entropy_with_logits(head(x), truth, pos_weight=weight)
            for head, x in ((self.phrase, cls), (self.early_phrase, early))
        )
        return late_loss + early_loss


def normalise(pixels: Tensor) -> Tensor:
    """Convert uint8 [B, h, w, 3] to the tower's input [B, 3, h, w], as the image processor does."""
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def train_tower(
    tower: CLIPVisionModel,
    heads: TowerHeads,
    scenes: SceneBatch,
    checkpoint: Path,
    *,
    windows: int,
    wholes: int,
    places: float,
    seed: int,
    log: Callable[[str], None] = print,
) -> None:
    """Train tower and heads in place: `windows` steps on windows, then `wholes` on whole scenes with CLS.

    `places` weighs the loss of the patches' positions. Resumes from `checkpoint` if it exists.
    """
    both = nn.ModuleDict({"tower": tower, "heads": heads})
    optimiser = Optimiser(both, lr=2e-3, matrix_lr=0.01, total=windows + wholes)
    pixels, kind, color = (torch.from_numpy(a) for a in (scenes.pixels, scenes.kind, scenes.color))
    texture, phrases = torch.from_numpy(scenes.texture), torch.from_numpy(scenes.phrases)
    part = 6
    for step in checkpointed(checkpoint, both, optimiser, windows + wholes, every=250):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        whole = step >= windows
        pick = torch.randint(len(pixels), (48 if whole else 96,), generator=rng)
        if whole:
            window, batch = None, pixels[pick]
            k, c = kind[pick], color[pick]
        else:
            corner = torch.randint(GRID - part + 1, (len(pick), 2), generator=rng)
            rows = corner[:, :1] + torch.arange(part)
            cols = corner[:, 1:] + torch.arange(part)
            window = (rows[:, :, None] * GRID + cols[:, None]).flatten(1)
            py = (corner[:, :1] * PATCH + torch.arange(part * PATCH))[:, :, None]
            px = (corner[:, 1:] * PATCH + torch.arange(part * PATCH))[:, None]
            batch = pixels[pick[:, None, None], py, px]
            k, c = kind[pick].gather(1, window), color[pick].gather(1, window)
        early, last = features(tower, normalise(batch), window)
        loss = heads.patch_loss(early[:, 1:], k, c, texture[pick])
        if whole:
            loss = loss + 2 * heads.phrase_loss(tower.post_layernorm(last[:, 0]), early[:, 0], phrases[pick])
            loss = loss + places * heads.place_loss(early[:, 1:])
        optimiser.step(loss, step)
        if step % 50 == 0:
            with torch.no_grad():
                seen = k >= 0
                right = (heads.kind(early[:, 1:]).argmax(-1) == k)[seen]
                shape = k[seen] < len(SHAPES)
                hue = (heads.color(early[:, 1:]).argmax(-1) == c)[seen]
            log(
                f"tower {step}/{windows + wholes} loss {loss.item():.3f} "
                f"shape {right[shape].float().mean():.3f} digit {right[~shape].float().mean():.3f} "
                f"color {hue.float().mean():.3f}"
            )
