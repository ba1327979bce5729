"""Stage 2: a decoder of head width 32, grown from the micro model's, learns to answer about busy scenes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from compress.micro.busy_language import tokenizer
from compress.micro.busy_questions import FAMILIES, mixture
from compress.micro.busy_world import KINDS, BusyScene, rng_of, scene
from compress.micro.language import tokenizer as micro_tokenizer
from compress.micro.questions import Question
from compress.micro.recipe.busy_tower import PATCHES, VISION, BusyAlignment, label_scene, word_table
from compress.micro.recipe.decoder import Frame, Lesson, TrainingModel, pack, run
from compress.micro.recipe.optim import Optimiser, checkpointed
from compress.micro.recipe.tower import features, normalise, training_spoil
from compress.micro.recipe.twins import SILENT

WIDTH, HEADS, INNER, LAYERS = 128, 4, 256, 12


def new_model(micro: Any) -> LlavaForConditionalGeneration:
    """Build a LLaVA for the busy world whose decoder computes the same as the micro model's.

    Heads have width 32 instead of 24. With the larger base, their first twelve rotary frequencies are equal.
    """
    tok = tokenizer()
    old = micro.config.text_config
    base = old.rope_parameters["rope_theta"] ** ((WIDTH // HEADS) / old.head_dim)
    torch.manual_seed(6)
    text = LlamaConfig(
        vocab_size=len(tok), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=WIDTH // HEADS,
        max_position_embeddings=1024, rms_norm_eps=old.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
        initializer_range=0.08, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(  # type: ignore[call-arg]  # pad_token_id is a field of every configuration
        vision_config=VISION, text_config=text, image_token_index=tok.get_vocab()["<image>"],
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=PATCHES,
        tie_word_embeddings=False, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    for p in model.model.vision_tower.parameters():
        p.requires_grad_(False)
    grow(model, micro)
    return model


def grow(model: Any, micro: Any) -> None:
    """Copy the micro model's projector, decoder and head into the wider ones without changing their function.

    The method is Net2Net (arXiv:1511.05641). Embeddings of new words start at random.
    """
    old, new = micro.config.text_config.head_dim, WIDTH // HEADS
    half = torch.arange(old // 2)
    inside = torch.cat([half, new // 2 + half])  # rotary pairs are half a head apart
    rows = (torch.arange(micro.config.text_config.num_attention_heads)[:, None] * new + inside).flatten()
    with torch.no_grad():
        for part in ("model.multi_modal_projector", "model.language_model"):
            target, source = model.get_submodule(part), micro.get_submodule(part)
            for name, small in source.named_parameters():
                if "embed_tokens" in name:
                    continue
                large = target.get_parameter(name)
                if name.endswith(SILENT):
                    large.zero_()
                if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                    if "q_proj" in name:
                        large[[r for r in range(WIDTH) if r not in set(rows.tolist())]] = 0
                    scale = math.sqrt(new / old) if "q_proj" in name else 1.0
                    large[rows, : small.shape[1]] = scale * small
                elif name.endswith("o_proj.weight"):
                    large[: small.shape[0], rows] = small
                else:
                    large[tuple(map(slice, small.shape))] = small
                if "norm" in name:
                    large.mul_(math.sqrt(small.numel() / large.numel()))
        table = model.model.language_model.embed_tokens.weight
        words = word_table(micro)
        table.zero_()
        table[:, : words.shape[1]] = words
        head, known = model.lm_head.weight, micro.lm_head.weight
        head.normal_(0, 0.02)
        head[:, : words.shape[1]] = words * (known.std() / words.std())
        ids = micro_tokenizer().get_vocab()
        for word, at in tokenizer().get_vocab().items():
            if word in ids:
                head[at, : words.shape[1]] = known[ids[word]]


def llava(model: Any) -> TrainingModel:
    """Set up training of projector, decoder and head; the tower is frozen."""
    index = tokenizer().get_vocab()
    opening = (index["<s>"], index["user"])
    parts = model.model
    trained = {
        "projector": parts.multi_modal_projector, "decoder": parts.language_model, "head": model.lm_head,
    }  # fmt: skip
    shows = torch.arange(PATCHES)
    frame = Frame(opening, (len(opening) + shows)[None])
    return TrainingModel(model, frame, shows, parts.multi_modal_projector, nn.ModuleDict(trained))


@dataclass(frozen=True)
class Book:
    """Scenes with features and labels of a frozen tower's patches."""

    scenes: list[BusyScene]
    features: Tensor  # [n, 576, C] float16
    kind: Tensor  # [n, 576] int8 as in `tower.SceneBatch`, likewise the next three
    color: Tensor
    ground: Tensor
    owner: Tensor


@torch.no_grad()
def book(tower: CLIPVisionModel, split: str, seeds: Sequence[int], spoils: bool = True) -> Book:
    """Draw scenes and compute their features."""
    made, columns, feats = [], [], []
    for start in range(0, len(seeds), 16):
        part = [scene(split, s, training_spoil(s) if spoils else None) for s in seeds[start : start + 16]]
        rows = [label_scene(one) for one in part]
        made += part
        feats.append(
            features(tower, normalise(torch.from_numpy(np.stack([r[0] for r in rows]))))[0][:, 1:].half()
        )
        columns += [r[1:5] for r in rows]
    labels = [torch.from_numpy(np.stack(column)) for column in zip(*columns, strict=True)]
    return Book(made, torch.cat(feats), *labels)


def lesson(asked: list[Question], index: dict[str, int], end: int) -> Lesson:
    """Convert questions to token ids."""

    def ids(text: str) -> list[int]:
        return [index[w] for w in text.split()]

    return Lesson(
        [ids(q.text + " assistant") for q in asked],
        [[*ids(q.answer), end] for q in asked],
        [q.family for q in asked],
    )


def tokens_of(owner: NDArray[np.int8], kind: NDArray[np.int8], about: Sequence[int], keep: int) -> list[int]:
    """Return at most `keep` tokens of the things in `about`, taken from each thing in turn.

    Characters come first, then unambiguous tokens, then the others.
    """
    queues = []
    for thing in dict.fromkeys(about):
        mine = np.flatnonzero(owner == thing)
        rank = np.where(kind[mine] >= len(KINDS), 0, np.where(kind[mine] >= 0, 1, 2))
        queues.append(mine[np.argsort(rank, kind="stable")].tolist())
    turns = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    return turns[:keep]


def some(whole: BusyScene, things: int | None, rng: torch.Generator) -> tuple[BusyScene, list[int]]:
    """Return the scene with at most `things` of its things, and their numbers in the whole scene."""
    count = len(whole.things)
    if things is None or things >= count:
        return whole, list(range(count))
    numbers = sorted(torch.randperm(count, generator=rng)[:things].tolist())
    return replace(whole, things=tuple(whole.things[i] for i in numbers)), numbers


def seen(
    owner: Tensor,
    kind: Tensor,
    asked: list[set[int]],
    there: list[list[int]],
    count: int,
    rng: torch.Generator,
) -> Tensor:
    """Draw the visual tokens [B, count] that training scenes show.

    They are tokens of the things in `asked`, a random part or all of each thing, and other random tokens. The
    characters of signs in `asked` are always included. Things that are not in `there` show none.
    """
    draw = torch.rand(owner.shape, generator=rng)
    for row, things in enumerate(asked):
        if not things:
            continue
        mine = torch.isin(owner[row], torch.tensor(sorted(things), dtype=owner.dtype))
        share = torch.rand(128, generator=rng) * 1.7 + 0.3  # at least a third, often all
        part = draw[row] < share[owner[row].long()]
        # One unambiguous token of every thing stays.
        clear = torch.zeros(128).scatter_reduce(
            0, owner[row].long().clamp(min=0), draw[row] * (kind[row] >= 0), "amax"
        )
        first = draw[row] * (kind[row] >= 0) == clear[owner[row].long().clamp(min=0)]
        draw[row] += 1.0 * (mine & (part | first | (kind[row] >= len(KINDS))))
    for row, numbers in enumerate(there):
        draw[row] -= 2.0 * ~torch.isin(owner[row], torch.tensor([-1, *numbers], dtype=owner.dtype))
    return draw.topk(count, dim=1).indices.sort(1).values


@dataclass(frozen=True)
class Course:
    """One run of instruction tuning.

    `visual` maps a first step to numbers of visual tokens that a scene shows (see `seen`); each training step
    draws one of the numbers listed for it. `text` is the number of tokens of packed questions. Learning rates
    fall from step `steady` on. `things` limits the number of things that a scene shows and questions ask
    about: the number is drawn for each scene from 3 to a limit, which grows over the course from the first
    value to the second. A model learns to find one thing among few much faster than among forty. `alignment`
    weighs the alignment of patches with words.
    """

    name: str
    steps: int
    steady: int
    visual: Mapping[int, tuple[int, ...]] = field(default_factory=lambda: {0: (192,)})
    batch: int = 8
    questions: int = 16
    text: int = 208
    lr: float = 1e-3
    matrix_lr: float = 0.01
    alignment: float = 0.1
    things: tuple[int, int] | None = None
    seed: int = 5

    def counts(self, step: int) -> tuple[int, ...]:
        """Return the numbers of visual tokens from which a step draws."""
        return self.visual[max(first for first in self.visual if first <= step)]

    def most(self, step: int, rng: torch.Generator) -> int | None:
        """Draw the largest number of things that a scene shows at a step."""
        if self.things is None:
            return None
        first, last = self.things
        limit = first + (last - first) * step // self.steps
        return int(torch.randint(3, limit + 1, (1,), generator=rng))


def instruct(
    pupil: TrainingModel, books: Callable[[int], Book], course: Course, checkpoint: Path,
    log: Callable[[str], None], every: int = 100, check: Callable[[int], None] = lambda step: None,
) -> None:  # fmt: skip
    """Train in place; resumes from `checkpoint`. `books(step)` returns the scenes to draw from at a step."""
    tok = tokenizer()
    index, end = tok.get_vocab(), tok.eos_token_id
    decoder, trained, alignment = pupil.decoder, pupil.trained, BusyAlignment()
    optimiser = Optimiser(
        trained, lr=course.lr, matrix_lr=course.matrix_lr, total=course.steps, steady=course.steady
    )
    if which("c++") or which("g++"):
        for layer in decoder.layers:
            layer.compile(dynamic=False)
    mean = 0.0
    families: dict[str, float] = {}
    for step in checkpointed(checkpoint, trained, optimiser, course.steps, every=every):
        rng = torch.Generator().manual_seed(course.seed * 1_000_003 + step)
        shelf = books(step)
        pick = torch.randint(len(shelf.scenes), (course.batch,), generator=rng)
        counts = course.counts(step)
        count = counts[int(torch.randint(len(counts), (1,), generator=rng))]
        most = course.most(step, rng) if count < PATCHES else None
        shown = [some(shelf.scenes[i], most, rng) for i in pick.tolist()]
        questions = [
            mixture(
                part,
                rng_of("train", part.seed, 100 + course.seed * 100_000 + step),
                course.questions,
            )
            for part, _ in shown
        ]
        packed = pack([lesson(asked, index, end) for asked in questions], course.text)
        owner, kind, color, ground = (a[pick] for a in (shelf.owner, shelf.kind, shelf.color, shelf.ground))
        visual = pupil.project(shelf.features[pick].float())
        keep = None
        if count < PATCHES:
            fits = [set(packed.block[b].tolist()) for b in range(len(pick))]
            asked = [
                {shown[b][1][i] for n, q in enumerate(qs) if n + 1 in fits[b] for i in q.about}
                for b, qs in enumerate(questions)
            ]
            keep = seen(owner, kind, asked, [there for _, there in shown], count, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(pupil, visual, packed, keep).float()
        loss = packed.loss(logits)
        pull = alignment(visual, decoder.embed_tokens.weight, kind.long(), color.long(), ground.long())
        optimiser.step(loss + course.alignment * pull, step)
        mean = loss.item() if mean == 0 else 0.97 * mean + 0.03 * loss.item()
        follow(families, questions, packed, logits)
        if step % 25 == 0:
            shares = " ".join(f"{f} {families[f]:.2f}" for f in FAMILIES if f in families)
            log(f"{course.name} {step}/{course.steps} loss {mean:.3f} pull {pull.item():.2f} {shares}")
        check(step)


def follow(families: dict[str, float], questions: list[list[Question]], packed: Any, logits: Tensor) -> None:
    """Update the running accuracy of each family."""
    for family, right in right_answers(questions, packed, logits):
        families[family] = 0.98 * families.get(family, float(right)) + 0.02 * right


def right_answers(questions: list[list[Question]], packed: Any, logits: Tensor) -> Iterator[tuple[str, bool]]:
    """Yield the family of each packed question, and whether all tokens of its answer are the most likely."""
    rows = packed.target != -100
    hit = logits.argmax(-1) == packed.answers()
    where, block = rows.nonzero()[:, 0].tolist(), packed.block[rows].tolist()
    right: dict[tuple[int, int], bool] = {}
    for w, b, h in zip(where, block, hit.tolist(), strict=True):
        right[w, b] = right.get((w, b), True) and h
    for (w, b), good in right.items():
        yield questions[w][b - 1].family, good
