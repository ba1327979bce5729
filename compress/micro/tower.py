"""Stage 1 of the recipe: a CLIP tower that knows what each patch shows and whose CLS token knows the scene.

Dense supervision (kind and colour of every patch, read from the penultimate layer as LLaVA will read it)
first runs on random 6 x 6-patch windows, a quarter of the cost, then on whole scenes together with the CLS
objective: match every image to the phrases ("red star") that are true of it, the image-text contrast of CLIP
with a bag of phrases as text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from compress.micro.optim import Optimiser, checkpointed
from compress.micro.world import COLORS, GRID, PATCH, SHAPES, SPOILS, TEXTURES, patch_labels, scene

KINDS = (*SHAPES, *"0123456789")  # what a patch can show; a number's patch shows one of its digits
PHRASES = len(COLORS) * (len(SHAPES) + 1)
IGNORE = -100
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes and what their patches show."""

    pixels: NDArray[np.uint8]  # [n, 96, 96, 3]
    kind: NDArray[np.int64]  # [n, 144] place in KINDS; -1 background, IGNORE ambiguous
    color: NDArray[np.int64]  # [n, 144] place in COLORS, likewise
    owner: NDArray[np.int64]  # [n, 144] which of the scene's things, counted from 0; -1 background
    texture: NDArray[np.int64]  # [n] place in TEXTURES
    phrases: NDArray[np.bool_]  # [n, PHRASES] which colour-kind pairs the scene contains


def training_spoil(seed: int) -> str | None:
    """One training scene in five is badly photographed, as VizWiz pictures are."""
    return SPOILS[seed // 5 % 3] if seed % 5 == 4 else None


def label_scene(
    split: str, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int, list[int]]:
    """Pixels, kind, colour, owner, texture and the places of the phrases of one scene; see `Scenes`."""
    made = scene(split, seed, training_spoil(seed))
    image, owner, cover = patch_labels(made)
    kind, color = np.full(GRID * GRID, -1), np.full(GRID * GRID, -1)
    for patch, (thing_index, share) in enumerate(zip(owner.ravel(), cover.ravel(), strict=True)):
        if thing_index < 0:
            continue
        if share < 0.15:
            kind[patch] = color[patch] = IGNORE
            continue
        thing = made.things[thing_index]
        color[patch] = list(COLORS).index(thing.color)
        if thing.kind == "number":
            x = (patch % GRID + 0.5) * PATCH
            second = len(thing.text) == 2 and x > thing.x
            kind[patch] = len(SHAPES) + int(thing.text[int(second)])
        else:
            kind[patch] = SHAPES.index(thing.kind)
    phrases = [
        list(COLORS).index(t.color) * (len(SHAPES) + 1) + (*SHAPES, "number").index(t.kind)
        for t in made.visible()
    ]
    return np.asarray(image), kind, color, owner.ravel(), TEXTURES.index(made.texture), phrases


def render_scenes(split: str, seeds: range, workers: int = 2) -> Scenes:
    """Render and label the scenes of `seeds`, in order, in `workers` processes."""
    with get_context("spawn").Pool(workers) as pool:
        rows = pool.starmap(label_scene, [(split, s) for s in seeds], chunksize=64)
    pixels, kind, color, owner, texture, told = zip(*rows, strict=True)
    phrases = np.zeros((len(rows), PHRASES), bool)
    for i, places in enumerate(told):
        phrases[i, places] = True
    return Scenes(
        np.stack(pixels), np.stack(kind), np.stack(color), np.stack(owner), np.array(texture), phrases
    )


def sine_cosine(side: int, width: int) -> Tensor:
    """Two-dimensional position code, [side * side, width]; a learned table that starts here learns faster."""
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
    """Penultimate and last hidden states [B, 1 + n, D] of normalised pixels [B, 3, h, w].

    `window` [B, n] gives each patch's place in the whole scene when `pixels` is only a window of it.
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


class Heads(nn.Module):
    """What the tower is asked during pre-training; thrown away afterwards."""

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
        """Where each patch is: a tower that is not asked forgets it, and no decoder can answer "left of"."""
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
    """uint8 [B, h, w, 3] to what the image processor hands the tower, [B, 3, h, w]."""
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def train_tower(
    tower: CLIPVisionModel,
    heads: Heads,
    scenes: Scenes,
    checkpoint: Path,
    *,
    windows: int,
    wholes: int,
    places: float,
    seed: int,
    log: Callable[[str], None] = print,
) -> None:
    """Train both in place: `windows` steps on windows, then `wholes` on whole scenes, also for CLS.

    `places` weighs the question where a patch is. Resumes from `checkpoint` when that exists.
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
