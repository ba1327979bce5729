"""The video twin: `micro-qwen` with larger visual tokens, trained on clips.

Its tower is frozen and treats the two frames of a moment as an image. A visual token covers 4 x 4 patches
instead of 2 x 2. The merger is initialised to output the mean of the four tokens of `micro-qwen`, so the
decoder can use it from the first step on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from compress.micro.language import QWEN_TOKENS
from compress.micro.language import tokenizer as micro_tokenizer
from compress.micro.recipe.busy_decoder import follow, lesson, right_answers
from compress.micro.recipe.decoder import Frame, TrainingModel, pack, run, thin
from compress.micro.recipe.optim import Optimiser, checkpointed
from compress.micro.recipe.tower import IGNORE, cut, normalise
from compress.micro.video_language import tokenizer
from compress.micro.video_questions import FAMILIES, mixture
from compress.micro.video_world import (
    CELLS,
    MOMENTS,
    PER_MOMENT,
    STEPS,
    VideoScene,
    backwards,
    clip,
    owners,
    paint,
    rng_of,
)
from compress.micro.world import COLORS, SIDE

PATCH = 4  # pixels along a side of a patch of the tower
MERGE = 4  # patches along a side of a visual token
PATCHES = SIDE // PATCH
TOKENS = MOMENTS * CELLS * CELLS
WINDOW = 32 // (PATCH * MERGE)  # visual tokens along a side of an attention window


def new_video(qwen: Any) -> Qwen2_5_VLForConditionalGeneration:
    """Build the twin of `micro-qwen` before training, which encodes images in a quarter of the tokens.

    New words start at random. A second, the length of a moment, is one step of M-RoPE's time axis.
    """
    old, new = micro_tokenizer(QWEN_TOKENS).get_vocab(), tokenizer().get_vocab()
    config: Any = Qwen2_5_VLConfig(**qwen.config.to_dict())
    config.text_config.vocab_size = len(new)
    config.vision_config.spatial_merge_size = MERGE
    config.vision_config.tokens_per_second = 1
    config.image_token_id, config.video_token_id = new["<|image_pad|>"], new["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = new["<|vision_start|>"], new["<|vision_end|>"]
    torch.manual_seed(9)
    model = Qwen2_5_VLForConditionalGeneration(config)
    source = dict(qwen.state_dict())
    with torch.no_grad():
        for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            table = model.get_parameter(name)
            table.normal_(0, float(source[name].std()) if "embed" in name else 0.02)
            known = source.pop(name)
            for word in new.keys() & old.keys():
                table[new[word]] = known[old[word]]
        merger = model.model.visual.merger
        _enlarge(merger, qwen.model.visual.merger)
        for name in merger.state_dict():
            source.pop(f"model.visual.merger.{name}")
    model.load_state_dict(source, strict=False)
    model.model.visual.requires_grad_(False)
    merger.requires_grad_(True)
    return model


def _enlarge(large: Any, small: Any) -> None:
    """Initialise a merger of 4 x 4 patches to output the mean of a 2 x 2 merger over its quarters."""
    large.ln_q.weight.copy_(small.ln_q.weight)
    first, _, last = large.mlp
    first.weight.zero_(), last.weight.zero_()
    width, hidden = small.ln_q.weight.numel(), small.mlp[0].weight.shape[0]
    for quarter in range(4):
        rows = slice(quarter * hidden, (quarter + 1) * hidden)
        for part in range(4):
            place = (quarter // 2 * 2 + part // 2) * MERGE + quarter % 2 * 2 + part % 2
            first.weight[rows, place * width : (place + 1) * width] = small.mlp[0].weight[
                :, part * width : (part + 1) * width
            ]
        first.bias[rows] = small.mlp[0].bias
        last.weight[:, rows] = small.mlp[2].weight / 4
    last.bias.copy_(small.mlp[2].bias)


def frame() -> Frame:
    """Return the tokens around a clip, and M-RoPE's positions, equal to the model's `get_rope_index`."""
    index = tokenizer().get_vocab()
    before = tuple(index[token] for token in ("<s>", "user", "<|vision_start|>"))
    place = torch.arange(TOKENS)
    axes = torch.stack([place // CELLS**2, place % CELLS**2 // CELLS, place % CELLS])
    # Positions of the text continue after the rows and columns, regardless of the moments.
    return Frame(before, len(before) + axes, (index["<|vision_end|>"],), len(before) + CELLS)


def video(model: Any) -> TrainingModel:
    """Set up training of merger, decoder and head."""
    merger = model.model.visual.merger
    trained = {
        "projector": merger, "decoder": model.model.language_model, "head": model.lm_head,
        "probe": Probe(model.config.text_config.hidden_size),
    }  # fmt: skip

    def project(features: Tensor) -> Tensor:
        merged: Tensor = merger(features.reshape(-1, features.shape[-1] // MERGE**2))
        return merged.view(*features.shape[:2], -1)

    return TrainingModel(model, frame(), torch.arange(TOKENS), project, nn.ModuleDict(trained))


def video_pixels(frames: Tensor) -> Tensor:
    """Convert uint8 [16, 96, 96, 3] to the tower's input: one row per patch of two frames."""
    x = normalise(frames).view(MOMENTS, PER_MOMENT, 3, CELLS, MERGE, PATCH, CELLS, MERGE, PATCH)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(MOMENTS * PATCHES**2, -1)


@torch.no_grad()
def see(model: Any, frames: NDArray[np.uint8]) -> Tensor:
    """Return the merger's input [n, 288, 1024] float16, row by row, for clips [n, 16, 96, 96, 3]."""
    pixels = torch.cat([video_pixels(one) for one in torch.from_numpy(frames)])
    grid = torch.tensor([[MOMENTS, PATCHES, PATCHES]]).expand(len(frames), -1)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.model.visual(pixels, grid_thw=grid).last_hidden_state
    order = torch.from_numpy(cut(np.arange(CELLS**2).reshape(CELLS, CELLS), WINDOW).ravel()).argsort()
    rows = out.view(len(frames), MOMENTS, CELLS**2, -1)[:, :, order]
    return rows.reshape(len(frames), TOKENS, -1).half()


@dataclass(frozen=True)
class Shelf:
    """Clips with features of the frozen tower."""

    scenes: list[VideoScene]
    features: Tensor  # [n, 288, 1024] float16


def shelf(model: Any, split: str, seeds: Sequence[int]) -> Shelf:
    """Draw clips and compute their features."""
    scenes = [clip(split, seed) for seed in seeds]
    parts = [np.stack([paint(one) for one in scenes[i : i + 8]]) for i in range(0, len(scenes), 8)]
    return Shelf(scenes, torch.cat([see(model, part) for part in parts]))


class ShownWords:
    """The words for the content of each visual token: shape, color and kind (such as "sign"), or texture."""

    def __init__(self) -> None:
        self.index = tokenizer().get_vocab()

    def of(self, scene: VideoScene) -> NDArray[np.int64]:
        """Return token ids [288, 3]."""
        owner = owners(scene)
        words = np.full((*owner.shape, 3), self.index[scene.texture])
        for number, actor in enumerate(scene.actors):
            for moment in range(actor.first, actor.last + 1):
                thing = actor.at(moment)
                assert thing is not None
                rows, columns = np.nonzero(owner[moment] == number)
                names = thing.text or thing.kind, thing.color, thing.kind
                words[moment, rows, columns] = [self.index[name] for name in names]
        return words.reshape(TOKENS, -1)


def pull(visual: Tensor, table: Tensor, words: Tensor, thing: Tensor) -> Tensor:
    """Return the alignment loss of visual tokens [B, K, D] with `words` [B, K, 3]; things weigh more."""
    logits = 12 * F.normalize(visual, dim=-1) @ F.normalize(table, dim=-1).T
    said = logits.log_softmax(-1).gather(-1, words).mean(-1)
    size = visual.norm(dim=-1).log() - table.norm(dim=-1).mean().log().detach()
    return -(said * torch.where(thing, 2.0, 0.5)).mean() + 0.1 * size.square().mean()


ABSENT = -2
PROBED = 6  # decoder layers before the probe


class Probe(nn.Module):
    """A probe that predicts temporal properties of a thing from its visual tokens inside the decoder.

    These are the token's moment, row and column, and the thing's first moment, direction of motion, first
    color, number of things of its kind so far, and first row and column. From questions alone, a decoder
    learns temporal order only slowly.
    """

    SIZES = (MOMENTS, MOMENTS, 5, len(COLORS), 3, CELLS, CELLS, CELLS, CELLS)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.read = nn.Linear(width, sum(self.SIZES))

    @staticmethod
    def labels(scene: VideoScene, there: Sequence[int]) -> NDArray[np.int64]:
        """Return class labels [288, 9]; IGNORE if undefined. `there` are the visible actors."""
        owner, colors, ways = owners(scene), list(COLORS), list(STEPS)
        made = np.full((*owner.shape, len(Probe.SIZES)), IGNORE)
        actors = {number: scene.actors[number] for number in there}
        for number, actor in actors.items():
            for moment in range(actor.first, actor.last + 1):
                kin = [one for one in actors.values() if one.kind == actor.kind and one.first <= moment]
                way = ways.index(actor.way) if actor.way else 4
                begin = int(actor.thing.y * CELLS / SIDE), int(actor.thing.x * CELLS / SIDE)
                rows, columns = np.nonzero(owner[moment] == number)
                made[moment, rows, columns] = (
                    moment, actor.first, way if moment > actor.first else IGNORE,
                    colors.index(actor.thing.color), len(kin) - 1, 0, 0, *begin,
                )  # fmt: skip
                made[moment, rows, columns, 5:7] = np.stack([rows, columns], 1)
        return made.reshape(TOKENS, -1)

    def forward(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, list[float]]:
        """Return the mean loss and the accuracies, for hidden [B, K, D] and labels [B, K, 9]."""
        losses, shares = [], []
        parts = self.read(self.norm(hidden)).split(self.SIZES, -1)
        for part, label in zip(parts, labels.unbind(-1), strict=True):
            told = label != IGNORE
            losses.append(F.cross_entropy(part[told], label[told]))
            shares.append(float((part[told].argmax(-1) == label[told]).float().mean()))
        return torch.stack(losses).mean(), shares


def some(scene: VideoScene, most: int, rng: torch.Generator) -> tuple[VideoScene, list[int]]:
    """Return the scene with at most `most` actors, including two shapes, and their original numbers."""
    shapes = [i for i, one in enumerate(scene.actors) if one.kind != "sign"]
    first = [shapes[i] for i in torch.randperm(len(shapes), generator=rng)[:2].tolist()]
    rest = [i for i in torch.randperm(len(scene.actors), generator=rng).tolist() if i not in first]
    numbers = sorted((first + rest)[:most])
    return replace(scene, actors=tuple(scene.actors[i] for i in numbers)), numbers


def shown(owner: Tensor, count: int, thinned: float, rng: torch.Generator) -> Tensor:
    """Draw the visual tokens [B, count] of clips that are in the sequence, with those of things first.

    In a share `thinned` of the clips every thing shows a random part of its tokens of each moment, at least
    one. `owner` [B, 288] is the number of the actor of a token, -1 for background, `ABSENT` for a thing that
    must not be visible.
    """
    moment = torch.arange(TOKENS) // CELLS**2
    thing = owner >= 0
    part = torch.where(thing, owner * MOMENTS + moment, -1)
    first = thing & thin(part, thinned, rng)
    score = torch.rand(owner.shape, generator=rng) + first - 2.0 * (owner == ABSENT)
    return score.topk(count, dim=1).indices.sort(1).values


@dataclass(frozen=True)
class VideoCourse:
    """One run of instruction tuning.

    `visual`: the number of visual tokens in the sequence, one of these values at each step (see `shown`).
    `text`: tokens of packed questions. Learning rates fall from step `steady` on. `alignment` weighs the
    alignment of visual tokens with words, `probe` the loss of the probe. `things`: the largest number of
    actors that a clip shows and that questions ask about, one of these values per clip. Default: all.
    """

    name: str
    steps: int
    steady: int
    visual: tuple[int, ...] = (96,)
    thinned: float = 0.5
    batch: int = 8
    questions: int = 18
    text: int = 208
    lr: float = 1.5e-3
    matrix_lr: float = 0.012
    alignment: float = 0.2
    probe: float = 2.0
    things: tuple[int, ...] = (9,)
    seed: int = 61


def instruct(
    pupil: TrainingModel, shelves: Callable[[int], Shelf], course: VideoCourse, checkpoint: Path,
    log: Callable[[str], None], every: int = 100, check: Callable[[int], None] = lambda step: None,
) -> None:  # fmt: skip
    """Train in place; resumes from `checkpoint`. `shelves(step)` returns the clips to draw from at a step.

    Half of the clips are reversed in time.
    """
    tok = tokenizer()
    index, end = tok.get_vocab(), tok.eos_token_id
    decoder, trained, words = pupil.decoder, pupil.trained, ShownWords()
    optimiser = Optimiser(
        trained, lr=course.lr, matrix_lr=course.matrix_lr, total=course.steps, steady=course.steady
    )
    probe, caught = trained["probe"], []
    hook = decoder.layers[PROBED].register_forward_pre_hook(lambda layer, given: caught.append(given[0]))
    if which("c++") or which("g++"):
        for number, layer in enumerate(decoder.layers):
            if number != PROBED:  # hooks run outside of compiled code
                layer.compile(dynamic=False)
    mean = 0.0
    families: dict[str, float] = {}
    turned = torch.arange(TOKENS).view(MOMENTS, -1).flip(0).flatten()
    for step in checkpointed(checkpoint, trained, optimiser, course.steps, every=every):
        rng = torch.Generator().manual_seed(course.seed * 1_000_003 + step)
        stock = shelves(step)
        pick = torch.randint(len(stock.scenes), (course.batch,), generator=rng).tolist()
        turn = (torch.rand(course.batch, generator=rng) < 0.5).tolist()
        count = course.visual[int(torch.randint(len(course.visual), (1,), generator=rng))]
        scenes = [
            backwards(stock.scenes[i]) if t else stock.scenes[i] for i, t in zip(pick, turn, strict=True)
        ]
        most = [course.things[i] for i in torch.randint(len(course.things), (len(pick),), generator=rng)]
        parts = [some(one, count, rng) for one, count in zip(scenes, most, strict=True)]
        stream = 100 + course.seed * 100_000 + step
        questions = [mixture(part, rng_of("train", part.seed, stream), course.questions) for part, _ in parts]
        packed = pack([lesson(asked, index, end) for asked in questions], course.text)
        owner = torch.from_numpy(np.stack([owners(one).ravel() for one in scenes])).long()
        for row, (_, numbers) in zip(owner, parts, strict=True):
            row[~torch.isin(row, torch.tensor([-1, *numbers]))] = ABSENT
        keep = shown(owner, count, course.thinned, rng)
        rows = [turned[k] if t else k for k, t in zip(keep, turn, strict=True)]
        features = torch.stack([stock.features[i][k] for i, k in zip(pick, rows, strict=True)]).float()
        named = torch.from_numpy(np.stack([words.of(one) for one in scenes]))
        named = named.gather(1, keep[..., None].expand(-1, -1, named.shape[-1]))
        labels = [Probe.labels(one, numbers) for one, (_, numbers) in zip(scenes, parts, strict=True)]
        told = torch.from_numpy(np.stack(labels))
        told = told.gather(1, keep[..., None].expand(-1, -1, told.shape[-1]))
        caught.clear()
        with torch.autocast("cpu", torch.bfloat16):
            visual = pupil.project(features)
            logits = run(pupil, visual, packed, keep).float()
        front = len(pupil.frame.before)
        read, shares = probe(caught[0][:, front : front + count].float(), told)
        loss = packed.loss(logits)
        drawn = pull(visual.float(), decoder.embed_tokens.weight, named, owner.gather(1, keep) >= 0)
        optimiser.step(loss + course.alignment * drawn + course.probe * read, step)
        mean = loss.item() if mean == 0 else 0.97 * mean + 0.03 * loss.item()
        follow(families, questions, packed, logits)
        if step % 25 == 0:
            known = " ".join(f"{f} {families[f]:.2f}" for f in FAMILIES if f in families)
            seen = "/".join(f"{share:.2f}" for share in shares)
            sums = f"loss {mean:.3f} pull {drawn.item():.2f} read {read.item():.2f} {seen}"
            log(f"{course.name} {step}/{course.steps} {sums} {known}")
        check(step)
    hook.remove()


@torch.no_grad()
def accuracy(pupil: TrainingModel, held: Shelf, questions: int = 12) -> dict[str, float]:
    """Return the accuracy on questions about whole clips, by family."""
    tok = tokenizer()
    right: dict[str, list[bool]] = {}
    for start in range(0, len(held.scenes), 10):
        scenes = held.scenes[start : start + 10]
        asked = [mixture(one, rng_of(one.split, one.seed, 3), questions) for one in scenes]
        packed = pack([lesson(some, tok.get_vocab(), tok.eos_token_id) for some in asked])
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(pupil, pupil.project(held.features[start : start + 10].float()), packed).float()
        for family, good in right_answers(asked, packed, logits):
            right.setdefault(family, []).append(good)
    return {family: float(np.mean(right[family])) for family in FAMILIES if family in right}
