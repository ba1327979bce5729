"""Stages 2 and 3 of the recipe: alignment and instruction tuning on frozen tower features.

Alignment trains the projector to map a patch close to the words for its content. Instruction tuning packs
one image and many questions into one sequence. Each question attends to the image and itself, not to other
questions, so the visual tokens are computed only once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from compress.micro.language import CELLS, CHINESE, tokenizer
from compress.micro.questions import FAMILIES, mixture
from compress.micro.recipe.optim import Optimiser, checkpointed, rank, world
from compress.micro.recipe.tower import IGNORE, PATCHES, SceneBatch, features, normalise, training_spoil
from compress.micro.world import COLORS, GRID, SHAPES, TEXTURES, rng_of, scene
from compress.parallel.workers import new_processes


@dataclass(frozen=True)
class Frame:
    """The tokens around the visual tokens of an image, and the positions of the visual tokens.

    Positions of the tokens before the image start at 0. Those of the tokens after it start after the highest
    position of a visual token, or at `end`.
    """

    before: tuple[int, ...]  # token ids of "<s> user" and of the start of an image
    places: Tensor  # [A, N] positions of the visual tokens on one axis, or on the three of M-RoPE
    after: tuple[int, ...] = ()  # token ids of the end of an image
    end: int | None = None


@dataclass(frozen=True)
class TrainingModel:
    """A model in instruction tuning: its trained parts, and the projection of the tower's features.

    With DeepStack, the last axis of a visual token continues with D values for each of the first decoder
    layers, which are added after that layer.
    """

    model: Any
    frame: Frame
    shows: Tensor  # [N] the patch of every visual token; for a newline, the number of patches
    project: Callable[[Tensor], Tensor]  # features [B, n, C] -> visual tokens [B, N, D or more]
    trained: nn.ModuleDict

    @property
    def decoder(self) -> Any:
        return self.model.model.language_model


def llava(model: Any) -> TrainingModel:
    """Set up training of a LLaVA's projector and decoder; the tower is frozen."""
    parts = model.model
    trained = {
        "projector": parts.multi_modal_projector, "decoder": parts.language_model, "head": model.lm_head,
    }  # fmt: skip
    shows = torch.arange(PATCHES)
    frame = Frame(opening(), (len(opening()) + shows)[None])
    return TrainingModel(model, frame, shows, parts.multi_modal_projector, nn.ModuleDict(trained))


@cache
def opening() -> tuple[int, ...]:
    """Return the token ids at the start of every prompt."""
    index = tokenizer().get_vocab()
    return index["<s>"], index["user"]


def new_model(
    vision: CLIPVisionConfig, *, width: int, inner: int, layers: int, heads: int, seed: int
) -> LlavaForConditionalGeneration:
    """Build an untrained LLaVA with the micro vocabulary; pinyin words start near the English ones."""
    tok = tokenizer()
    index = tok.get_vocab()
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=len(tok), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024,
        pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
        initializer_range=0.08, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(  # type: ignore[call-arg]  # pad_token_id is a field of every configuration
        vision_config=vision, text_config=text, image_token_index=index["<image>"],
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=PATCHES,
        tie_word_embeddings=False, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    decoder, head = model.model.language_model, model.lm_head
    with torch.no_grad():
        table = decoder.embed_tokens.weight
        table.normal_(0, 0.5)
        for english, pinyin in CHINESE.items():
            table[index[pinyin]] = table[index[english]] + 0.15 * torch.randn(width)
        head.weight.copy_(table * 0.3)
        for layer in decoder.layers:
            # Residual branches start at zero, and attention starts with equal query and key projections.
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    for p in model.model.vision_tower.parameters():
        p.requires_grad_(False)
    return model


@torch.no_grad()
def tower_features(tower: CLIPVisionModel, scenes: SceneBatch) -> Tensor:
    """Return penultimate patch features of all scenes, [n, 144 or 720, D] float16, without CLS."""
    pixels = torch.from_numpy(scenes.tiles.pixels)
    made = torch.cat([features(tower, normalise(part))[0][:, 1:].half() for part in pixels.split(64)])
    return made.view(len(scenes.kind), -1, made.shape[-1])


@dataclass(frozen=True)
class Lesson:
    """The questions of one scene as token ids; prompts end with "assistant", answers with </s>."""

    prompts: list[list[int]]
    answers: list[list[int]]
    families: list[str]


def lessons(split: str, seeds: range, epoch: int, n: int, kind: str = "where") -> list[Lesson]:
    """Draw `n` questions of the mixture `kind` for each scene, new ones in every epoch."""
    tok = tokenizer()
    index, end = tok.get_vocab(), tok.eos_token_id

    def ids(text: str) -> list[int]:
        return [index[w] for w in text.replace(",", " , ").split()]

    made = []
    for seed in seeds:
        asked = mixture(scene(split, seed, training_spoil(seed)), rng_of(split, seed, 10 + epoch), n, kind)
        made.append(
            Lesson(
                [ids(q.text + " assistant") for q in asked],
                [[*ids(q.answer), end] for q in asked],
                [q.family for q in asked],
            )
        )
    return made


def all_lessons(split: str, count: int, epoch: int, n: int, kind: str) -> list[Lesson]:
    """Compute `lessons` of the scenes 0 .. `count` - 1 in two processes."""
    parcels = [(split, range(i, min(i + 500, count)), epoch, n, kind) for i in range(0, count, 500)]
    with new_processes().Pool(2) as pool:
        parts = pool.starmap(lessons, parcels)
    return [lesson for part in parts for lesson in part]


@dataclass(frozen=True)
class Packed:
    """A batch of lessons: the text after the image, [B, T] each."""

    ids: Tensor
    order: Tensor  # position of a token in its question and answer, from 0
    block: Tensor  # number of the question, from 1; -1 = padding
    target: Tensor  # id of the next token; IGNORE outside the answers

    def mask(self, front: int, seen: Tensor | None = None, start: int = 0) -> Tensor:
        """Return the mask [B, 1, S, S] over `front` tokens and the text: causal, blocks separated.

        `seen` [B, kept] bool refers to the visual tokens, which begin at `start`; tokens with False are
        masked for all queries.
        """
        b, t = self.ids.shape
        block = torch.cat([torch.zeros(b, front, dtype=torch.long), self.block], 1)
        order = torch.arange(front + t)
        causal = order[:, None] >= order
        same = (block[:, :, None] == block[:, None]) | (block[:, None] == 0)
        if seen is not None:
            behind = front + t - start - seen.shape[1]
            same = same & F.pad(seen, (start, behind), value=True)[:, None]
        return (causal & same)[:, None]

    def answers(self) -> Tensor:
        """Return the target ids [M], in the order of `run`'s logits."""
        return self.target[self.target != IGNORE]

    def weight(self) -> Tensor:
        """Return weights [M] of the targets, with sum 1 and an equal sum for every question."""
        rows = self.target != IGNORE
        question = (torch.arange(len(self.ids))[:, None] * 1000 + self.block)[rows]
        _, inverse, size = question.unique(return_inverse=True, return_counts=True)
        return 1 / (size[inverse] * len(size))

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean over questions of the mean cross-entropy of an answer; `logits` [M, V] of `run`."""
        return (self.weight() * F.cross_entropy(logits, self.answers(), reduction="none")).sum()


def pack(batch: list[Lesson], length: int | None = None) -> Packed:
    """Pad to the longest lesson, or to exactly `length` tokens, leaving out the questions that do not fit."""
    rows: list[tuple[list[int], ...]] = []
    for lesson in batch:
        ids: list[int] = []
        order: list[int] = []
        block: list[int] = []
        target: list[int] = []
        for i, (prompt, answer) in enumerate(zip(lesson.prompts, lesson.answers, strict=True)):
            text = prompt + answer[:-1]
            if length is not None and len(ids) + len(text) > length:
                continue
            ids += text
            order += range(len(text))
            block += [i + 1] * len(text)
            target += [IGNORE] * (len(prompt) - 1) + answer
        rows.append((ids, order, block, target))
    longest = length or max(len(r[0]) for r in rows)
    fill = (0, 0, -1, IGNORE)
    columns = [torch.tensor([r[c] + [fill[c]] * (longest - len(r[c])) for r in rows]) for c in range(4)]
    return Packed(*columns)


def run(
    pupil: TrainingModel,
    visual: Tensor,
    packed: Packed,
    keep: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Return logits [M, V] at the M rows with a target.

    `keep` [B, K] are the visual tokens in the sequence, `seen` [B, K] bool those of them that are not masked.
    `visual` holds all visual tokens, or those of `keep`.
    """
    decoder, frame = pupil.decoder, pupil.frame
    batch, width = len(visual), decoder.config.hidden_size
    places = frame.places[:, None].expand(-1, batch, -1)
    if keep is not None:
        places = places.gather(2, keep.expand(len(places), -1, -1))
        if visual.shape[1] != keep.shape[1]:
            visual = visual.gather(1, keep[..., None].expand(-1, -1, visual.shape[-1]))

    def said(ids: tuple[int, ...]) -> Tensor:
        return decoder.embed_tokens(torch.tensor(ids, dtype=torch.long)).expand(batch, -1, -1)

    visual, *added = visual.split(width, -1)
    embeds = torch.cat([said(frame.before), visual, said(frame.after), decoder.embed_tokens(packed.ids)], 1)
    front = embeds.shape[1] - packed.ids.shape[1]
    stack = {}
    if added:
        place = torch.arange(embeds.shape[1]) - len(frame.before)
        shown = ((place >= 0) & (place < visual.shape[1])).expand(batch, -1)
        stack = {"visual_pos_masks": shown, "deepstack_visual_embeds": [one.flatten(0, 1) for one in added]}
    text = frame.end or int(frame.places.max()) + 1
    closing = text + torch.arange(len(frame.after))
    order = text + len(frame.after) + packed.order
    positions = torch.cat(
        [
            torch.arange(len(frame.before)).expand(len(places), batch, -1),
            places,
            closing.expand(len(places), batch, -1),
            order.expand(len(places), -1, -1),
        ],
        2,
    )
    out = decoder(
        inputs_embeds=embeds,
        attention_mask=packed.mask(front, seen, len(frame.before)),
        position_ids=positions if len(positions) > 1 else positions[0],
        use_cache=False,
        **stack,
    ).last_hidden_state
    rows = packed.target != IGNORE
    return pupil.model.lm_head(out[:, front:][rows])


class Alignment(nn.Module):
    """A loss that aligns a projected patch with the embeddings of the words for its content.

    These are shape or digit and colour on a thing, texture on background, and with `cells` also the cell. It
    is the only loss of the alignment stage. Later stages add it with a small weight, so that words remain
    meaningful anchors.
    """

    def __init__(self, scenes: SceneBatch, shows: Tensor) -> None:
        super().__init__()
        index = tokenizer().get_vocab()
        self.kind_word = torch.tensor([index[w] for w in (*SHAPES, *"0123456789")])
        self.color_word = torch.tensor([index[w] for w in COLORS])
        self.texture_word = torch.tensor([index[w] for w in TEXTURES])
        self.cell_word = torch.tensor(
            [index[CELLS[r // 2 * 6 + c // 2]] for r in range(GRID) for c in range(GRID)]
        )  # of an image in one tile
        self.texture = torch.from_numpy(scenes.texture)
        labels = ((scenes.kind, IGNORE), (scenes.color, IGNORE), (scenes.owner, -1))
        self.kind, self.color, self.owner = (
            F.pad(torch.from_numpy(label), (0, 1), value=newline)[:, shows] for label, newline in labels
        )

    def forward(self, visual: Tensor, table: Tensor, pick: Tensor, cells: bool = True) -> Tensor:
        visual = visual[..., : table.shape[1]]
        logits = 12 * F.normalize(visual, dim=-1) @ F.normalize(table, dim=-1).T  # [B, N, V]
        logp = logits.log_softmax(-1)
        kind, color = self.kind[pick], self.color[pick]
        thing = kind >= 0

        def said(words: Tensor) -> Tensor:
            return logp.gather(-1, words[..., None])[..., 0]

        kind_said = said(self.kind_word[kind.clamp(min=0)])
        color_said = said(self.color_word[color.clamp(min=0)])
        on_thing = (8 * kind_said + 7 * color_said) / 15
        behind = said(self.texture_word[self.texture[pick]][:, None].expand_as(kind))
        if cells:
            cell = said(self.cell_word.expand_as(kind))
            on_thing, behind = 0.75 * on_thing + 0.25 * cell, 0.6 * behind + 0.4 * cell
        weighted = torch.where(thing, on_thing, behind) * torch.where(thing, 2.0, 0.5)
        loss = -weighted[kind != IGNORE].mean()
        size = visual.norm(dim=-1).log() - table.norm(dim=-1).mean().log().detach()
        return loss + 0.1 * size.square().mean()


def align(
    pupil: TrainingModel, feats: Tensor, alignment: Alignment, steps: int, log: Callable[[str], None]
) -> None:
    """Stage 2: train the projector alone."""
    projector, table = pupil.trained["projector"], pupil.decoder.embed_tokens.weight
    optimiser = torch.optim.AdamW(projector.parameters(), lr=3e-3)
    for step in range(steps):
        pick = torch.randint(len(feats), (32,), generator=torch.Generator().manual_seed(77_000_000 + step))
        loss = alignment(pupil.project(feats[pick].float()), table.detach(), pick)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        optimiser.step()
        optimiser.zero_grad()
        if step % 100 == 0:
            log(f"align {step}/{steps} loss {loss.item():.3f}")


@torch.no_grad()
def accuracy(
    pupil: TrainingModel, feats: Tensor, taught: list[Lesson], keep: Tensor | None = None
) -> dict[str, float]:
    """Return the share of questions with all answer tokens predicted correctly, by family and overall."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(taught), 25):
        part = taught[start : start + 25]
        packed = pack(part)
        visual = pupil.project(feats[start : start + 25].float())
        logits = run(pupil, visual, packed, None if keep is None else keep[start : start + 25])
        rows = packed.target != IGNORE
        hit = logits.argmax(-1) == packed.target[rows]
        where, block = rows.nonzero()[:, 0], packed.block[rows]
        wrong = {(int(w), int(b)) for w, b, h in zip(where, block, hit, strict=True) if not h}
        for i, lesson in enumerate(part):
            for j, family in enumerate(lesson.families):
                right.setdefault(family, []).append((i, j + 1) not in wrong)
    scores = {f: float(np.mean(right[f])) for f in FAMILIES if f in right}
    return {"all": float(np.mean([x for v in right.values() for x in v])), **scores}


@dataclass(frozen=True)
class TeachingStage:
    """One run of instruction tuning.

    `every`: only each `every`-th decoder layer is used (the output of the others is still zero, so leaving
    them out changes nothing). `visual`: the number of random visual tokens that are read. Default: all. Both
    make early training cheap.
    `thinned`: the share of scenes in which every thing, and the background, shows only a random part of its
    tokens. It trains the model to count things and not tokens, which reading compressed images requires.
    Learning rates rise for `warmup` steps, stay constant until step `steady`, then fall. `alignment` weighs
    the alignment of patches with words; `cells` adds the words for cells. `half`: matrix products in
    bfloat16, which are several times faster on some processors.
    """

    name: str
    mixture: str
    steps: int
    steady: int
    every: int = 1
    visual: int | None = None
    batch: int = 16
    questions: int = 16
    text: int = 192
    lr: float = 2e-3
    matrix_lr: float = 0.02
    alignment: float = 0.1
    cells: bool = True
    thinned: float = 0.0
    half: bool = False
    warmup: int = 100
    seed: int = 5


def thin(owner: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Draw a mask [B, N] of the tokens that are read when a `share` of the scenes is thinned.

    In a thinned scene every thing, and the background, keeps a share of its tokens drawn from [0, 1), and at
    least one. `owner` [B, N] is the thing that a token shows, -1 for background.
    """
    part, draw = owner + 1, torch.rand(owner.shape, generator=rng)
    parts = int(part.max()) + 1
    share_kept = torch.rand(len(owner), parts, generator=rng).gather(1, part)
    lowest = torch.ones(len(owner), parts).scatter_reduce(1, part, draw, "amin").gather(1, part)
    whole = torch.rand(len(owner), 1, generator=rng) >= share
    return whole | (draw < share_kept) | (draw == lowest)


def instruct(
    pupil: TrainingModel, feats: Tensor, taught: Callable[[int], list[Lesson]],
    alignment: Alignment, course: TeachingStage, out: Path,
    log: Callable[[str], None], check: Callable[[], dict[str, float]],
) -> None:  # fmt: skip
    """Stage 3: train in place; resumes from `out`/<name>.pt.

    `taught(epoch)` returns the lessons of all scenes. Several processes share each batch if torch.distributed
    is initialised.
    """
    decoder, trained = pupil.decoder, pupil.trained
    layers = decoder.layers
    decoder.layers = nn.ModuleList(layers[:: course.every])
    optimiser = Optimiser(
        trained, lr=course.lr, matrix_lr=course.matrix_lr, total=course.steps, steady=course.steady,
        warmup=course.warmup, shared=True,
    )  # fmt: skip
    if which("c++") or which("g++"):
        for layer in decoder.layers:
            layer.compile()  # a fifth faster; shapes are fixed by `course`
    per_epoch = len(feats) // course.batch
    epoch, book, order, mean = -1, [], torch.empty(0), 0.0
    for step in checkpointed(out / f"{course.name}.pt", trained, optimiser, course.steps, every=250):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            book = taught(epoch)
            order = torch.randperm(len(feats), generator=torch.Generator().manual_seed(course.seed + epoch))
        rng = torch.Generator().manual_seed((course.seed + rank()) * 1_000_003 + step)
        pick = order[step % per_epoch * course.batch :][: course.batch][rank() :: world()]
        packed = pack([book[i] for i in pick.tolist()], course.text)
        with torch.autocast("cpu", torch.bfloat16, enabled=course.half):
            visual = pupil.project(feats[pick].float())
        keep, seen = None, thin(alignment.owner[pick], course.thinned, rng) if course.thinned else None
        if course.visual:
            draw = torch.rand(len(pick), visual.shape[1], generator=rng)
            keep = draw.argsort(1)[:, : course.visual].sort(1).values
            seen = seen.gather(1, keep) if seen is not None else None
        with torch.autocast("cpu", torch.bfloat16, enabled=course.half):
            logits = run(pupil, visual, packed, keep, seen).float()
        loss = packed.loss(logits)
        pull = alignment(visual.float(), decoder.embed_tokens.weight, pick, course.cells)
        optimiser.step(loss + course.alignment * pull, step)
        mean = loss.item() if mean == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0 and rank() == 0:
            log(f"{course.name} {step}/{course.steps} loss {mean:.3f}")
        if rank() == 0 and (step % 500 == 499 or step + 1 == course.steps):
            log("check " + " ".join(f"{k} {v:.3f}" for k, v in check().items()))
    decoder.layers = layers
