"""Stage 1: the micro model's tower learns 24 x 24 patches, printed characters and several grounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from compress.micro.busy_language import tokenizer
from compress.micro.busy_world import CHARACTERS, GRID, GROUNDS, KINDS, PATCH, SIDE, BusyScene, paint, scene
from compress.micro.language import SPECIAL
from compress.micro.language import tokenizer as micro_tokenizer
from compress.micro.recipe.optim import Optimiser, checkpointed
from compress.micro.recipe.tower import IGNORE, features, normalise, training_spoil
from compress.micro.world import COLORS

SHOWN = (*KINDS, *CHARACTERS)  # contents of a patch; a sign's patch shows a character, or else its plate
PATCHES = GRID * GRID
PHRASES = len(COLORS) * len(KINDS)
WINDOW = 8  # patches along a side
VISION = CLIPVisionConfig(
    hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    image_size=SIDE, patch_size=PATCH, projection_dim=96,
)  # fmt: skip


@dataclass(frozen=True)
class BusySceneBatch:
    """Rendered scenes with labels of their 576 patches."""

    pixels: NDArray[np.uint8]  # [n, 192, 192, 3]
    kind: NDArray[np.int8]  # [n, 576] index in SHOWN; -1 ground, IGNORE ambiguous
    color: NDArray[np.int8]  # likewise, index in COLORS
    ground: NDArray[np.int8]  # [n, 576] index in GROUNDS
    owner: NDArray[np.int8]  # [n, 576] number of the scene's thing, from 0; -1 ground
    phrases: NDArray[np.bool_]  # [n, PHRASES] which colour-kind pairs the scene contains


def label_scene(made: BusyScene) -> tuple[NDArray, ...]:
    """Return the row of one scene in a `BusySceneBatch`."""
    pixels, patches = paint(made)
    owner = patches.owner
    kinds = np.array([KINDS.index(t.kind) for t in made.things] + [-1])  # index -1 selects the last entry
    colors = np.array([list(COLORS).index(t.color) for t in made.things] + [-1])
    kind, color = kinds[owner], colors[owner]
    kind = np.where(patches.character >= 0, len(KINDS) + patches.character, kind)
    faint = (owner >= 0) & (patches.cover < 0.15)
    kind, color = np.where(faint, IGNORE, kind), np.where(faint, IGNORE, color)
    grounds = np.array([GROUNDS.index(r.ground) for r in made.regions])
    under = np.array([GROUNDS.index(t.ground) for t in made.things] + [-1])[owner]
    ground = np.where(owner >= 0, under, grounds[patches.region])
    phrases = np.zeros(PHRASES, bool)
    for i in made.visible():
        thing = made.things[i]
        phrases[list(COLORS).index(thing.color) * len(KINDS) + KINDS.index(thing.kind)] = True
    return (
        pixels,
        kind.astype(np.int8),
        color.astype(np.int8),
        ground.astype(np.int8),
        owner.astype(np.int8),
        phrases,
    )


def render_scenes(split: str, seeds: range) -> BusySceneBatch:
    """Render and label the scenes of `seeds`, one in five of them with a photographic defect."""
    rows = (label_scene(scene(split, seed, training_spoil(seed))) for seed in seeds)
    columns: list[NDArray] = []
    for n, row in enumerate(rows):
        columns = columns or [np.empty((len(seeds), *part.shape), part.dtype) for part in row]
        for column, part in zip(columns, row, strict=True):
            column[n] = part
    return BusySceneBatch(*columns)


def word_table(micro: Any) -> Tensor:
    """Return the micro model's embeddings [V, 96] of the busy words; new words start at random."""
    old, new = micro_tokenizer().get_vocab(), tokenizer().get_vocab()
    same = {"sign": "number", "plate": "numeral", "paizi": "shuzi"}
    table = micro.model.language_model.embed_tokens.weight.detach()
    spread = table[len(SPECIAL) + 1 :].std()
    made = spread * torch.randn(len(new), table.shape[1], generator=torch.Generator().manual_seed(11))
    for word, at in new.items():
        if same.get(word, word) in old:
            made[at] = table[old[same.get(word, word)]]
    return made


def grown_tower(micro: Any) -> CLIPVisionModel:
    """Enlarge the micro model's tower to four times as many patches, with interpolated positions."""
    tower = CLIPVisionModel(VISION)
    state = {name: value.clone() for name, value in micro.model.vision_tower.state_dict().items()}
    name = next(n for n in state if n.endswith("position_embedding.weight"))
    old = state[name]
    side = int((len(old) - 1) ** 0.5)
    plane = old[1:].T.reshape(1, -1, side, side)
    finer = F.interpolate(plane, (GRID, GRID), mode="bicubic", align_corners=False)
    state[name] = torch.cat([old[:1], finer[0].flatten(1).T])
    ids = [n for n in state if n.endswith("position_ids")]
    for n in ids:
        del state[n]
    missing, unexpected = tower.load_state_dict(state, strict=False)
    assert not unexpected and all(n.endswith("position_ids") for n in missing), (missing, unexpected)
    return tower


class BusyAlignment(nn.Module):
    """A loss that aligns a projected patch with the embeddings of the words for its content.

    These are the kind or character, the colour and, with a small weight, the ground of a thing, or the ground
    alone. The patch of a character is also aligned with "sign".
    """

    def __init__(self) -> None:
        super().__init__()
        index = tokenizer().get_vocab()
        self.kind_word, self.color_word, self.ground_word = (
            torch.tensor([index[w] for w in names]) for names in (SHOWN, COLORS, GROUNDS)
        )
        self.sign_word = index["sign"]

    def forward(self, visual: Tensor, table: Tensor, kind: Tensor, color: Tensor, ground: Tensor) -> Tensor:
        """Return the loss of visual tokens [B, n, D]; labels [B, n] are as in `BusySceneBatch`."""
        logp = (12 * F.normalize(visual, dim=-1) @ F.normalize(table, dim=-1).T).log_softmax(-1)

        def said(words: Tensor) -> Tensor:
            return logp.gather(-1, words[..., None])[..., 0]

        kind_said = said(self.kind_word[kind.clamp(min=0)])
        kind_said = torch.where(
            kind >= len(KINDS), 0.7 * kind_said + 0.3 * logp[..., self.sign_word], kind_said
        )
        behind = said(self.ground_word[ground])
        on_thing = 0.42 * kind_said + 0.33 * said(self.color_word[color.clamp(min=0)]) + 0.25 * behind
        weighted = torch.where(kind >= 0, 2.0 * on_thing, 0.5 * behind)
        size = visual.norm(dim=-1).log() - table.norm(dim=-1).mean().log().detach()
        return 0.1 * size.square().mean() - weighted[kind != IGNORE].mean()


class BusyTowerHeads(nn.Module):
    """Prediction heads for the tower's pre-training, discarded afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind = nn.Linear(width, len(SHOWN) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.ground = nn.Linear(width, len(GROUNDS))
        self.phrase, self.early_phrase = nn.Linear(width, PHRASES), nn.Linear(width, PHRASES)
        self.row, self.column = nn.Linear(width, GRID), nn.Linear(width, GRID)

    def patch_loss(self, x: Tensor, kind: Tensor, color: Tensor, ground: Tensor) -> Tensor:
        kind = torch.where(kind == -1, len(SHOWN), kind)
        color = torch.where(color == -1, len(COLORS), color)
        flat = x.flatten(0, 1)
        losses = [
            F.cross_entropy(head(flat), target.flatten(), ignore_index=IGNORE)
            for head, target in ((self.kind, kind), (self.color, color), (self.ground, ground))
        ]
        return 2 * losses[0] + losses[1] + 0.5 * losses[2]

    def place_loss(self, x: Tensor, place: Tensor) -> Tensor:
        """Return the loss of predicting the position of each patch; `place` [B * n]."""
        flat = x.flatten(0, 1)
        row, column = self.row(flat), self.column(flat)
        return F.cross_entropy(row, place // GRID) + F.cross_entropy(column, place % GRID)

    def phrase_loss(self, cls: Tensor, early: Tensor, phrases: Tensor) -> Tensor:
        truth, weight = phrases.float(), torch.full((PHRASES,), 2.0)
        late_loss, early_loss = (
            F.binary_cross_entropy_with_logits(head(x), truth, pos_weight=weight)
            for head, x in ((self.phrase, cls), (self.early_phrase, early))
        )
        return late_loss + early_loss


def train_tower(
    tower: CLIPVisionModel, heads: BusyTowerHeads, projector: nn.Module, table: Tensor,
    scenes: BusySceneBatch, checkpoint: Path, *, windows: int, wholes: int, seed: int, lr: float = 2e-3,
    matrix_lr: float = 0.01, window_batch: int = 96, whole_batch: int = 12,
    log: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Train tower, heads and projector in place on windows of 8 x 8 patches, then on whole scenes with CLS.

    Resumes from `checkpoint` if it exists. `table` [V, D] holds the words' embeddings.
    """
    every = nn.ModuleDict({"tower": tower, "heads": heads, "projector": projector})
    optimiser = Optimiser(
        every, lr=lr, matrix_lr=matrix_lr, total=windows + wholes, steady=windows + wholes // 3
    )
    pixels = torch.from_numpy(scenes.pixels)
    kind, color, ground = (torch.from_numpy(a) for a in (scenes.kind, scenes.color, scenes.ground))
    phrases, alignment = torch.from_numpy(scenes.phrases), BusyAlignment()
    for step in checkpointed(checkpoint, every, optimiser, windows + wholes, every=100):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        whole = step >= windows
        pick = torch.randint(len(pixels), (whole_batch if whole else window_batch,), generator=rng)
        if whole:
            window, batch = None, pixels[pick]
            labels = [a[pick].long() for a in (kind, color, ground)]
            place = torch.arange(PATCHES).expand(len(pick), -1).flatten()
        else:
            corner = torch.randint(GRID - WINDOW + 1, (len(pick), 2), generator=rng)
            rows, cols = (corner[:, i : i + 1] + torch.arange(WINDOW) for i in (0, 1))
            window = (rows[:, :, None] * GRID + cols[:, None]).flatten(1)
            py, px = (corner[:, i : i + 1] * PATCH + torch.arange(WINDOW * PATCH) for i in (0, 1))
            batch = pixels[pick[:, None, None], py[:, :, None], px[:, None]]
            labels = [a[pick].gather(1, window).long() for a in (kind, color, ground)]
            place = window.flatten()
        early, last = features(tower, normalise(batch), window)
        loss = heads.patch_loss(early[:, 1:], *labels) + 0.3 * heads.place_loss(early[:, 1:], place)
        loss = loss + 0.5 * alignment(projector(early[:, 1:]), table, *labels)
        if whole:
            loss = loss + 2 * heads.phrase_loss(tower.post_layernorm(last[:, 0]), early[:, 0], phrases[pick])
        optimiser.step(loss, step)
        if step % 50 == 0:
            log(
                f"tower {step}/{windows + wholes} loss {loss.item():.3f} {told(heads, early[:, 1:], *labels)}"
            )


@torch.no_grad()
def told(heads: BusyTowerHeads, x: Tensor, kind: Tensor, color: Tensor, ground: Tensor) -> str:
    """Return the accuracy of the heads on patches, as text."""
    said = heads.kind(x).argmax(-1)
    seen, behind = kind >= 0, kind == -1
    groups = {
        "shape": seen & (kind < len(KINDS) - 1), "plate": kind == len(KINDS) - 1,
        "character": kind >= len(KINDS),
    }  # fmt: skip
    shares = {name: (said == kind)[group].float().mean().item() for name, group in groups.items()}
    shares["color"] = (heads.color(x).argmax(-1) == color)[seen].float().mean().item()
    right = heads.ground(x).argmax(-1) == ground
    shares |= {"ground": right[behind].float().mean().item(), "under": right[seen].float().mean().item()}
    return " ".join(f"{name} {share:.3f}" for name, share in shares.items())
