"""What a compressor learns from: embeddings of the labelled samples, computed once, and their targets."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compress.labels.labelling import sample_key
from compress.labels.store import Label, LabelStore
from compress.models import MLLM
from compress.network import Batch, Tokens, pack
from compress.samples import Sample

Target = Literal["label", "lead", "score"]


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled sample: where its rows lie, and what the compressor should say."""

    key: str
    start: int  # first row: visual tokens, then text
    visual: int  # N
    text: int  # T
    before: int  # text tokens before the image
    kept: tuple[int, ...]
    target: Tensor  # [N] in [0, 1]


class Lesson(NamedTuple):
    """A batch with its targets [B, N] in [0, 1] and its labels [B, N] as booleans."""

    batch: Batch
    targets: Tensor
    kept: Tensor


class Examples:
    """The labelled samples, by key, so that the order in which they came does not matter.

    Embeddings lie in a nameless file as float16, so that 7B-sized data sets need no memory; small ones stay
    in the page cache.
    """

    def __init__(self, rows: NDArray[np.float16], examples: Iterable[Example]):
        self._rows, self._examples = rows, sorted(examples, key=lambda one: one.key)

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def tokens(self, place: int) -> Tokens:
        one = self._examples[place]
        rows = torch.from_numpy(self._rows[one.start : one.start + one.visual + one.text].astype(np.float32))
        return Tokens(rows[: one.visual], rows[one.visual :], one.before)

    def lesson(self, places: Iterable[int], *, text: bool, device: torch.device) -> Lesson:
        """The samples at `places` as one batch, with or without their text tokens."""
        chosen = list(places)
        packed = pack([self.tokens(place) for place in chosen], text=text)
        batch = Batch(*(part.to(device) for part in packed))
        kept = torch.zeros(batch.valid.shape, dtype=torch.bool)
        for row, place in enumerate(chosen):
            kept[row, list(self._examples[place].kept)] = True
        targets = pad_sequence([self._examples[place].target for place in chosen], batch_first=True)
        return Lesson(batch, targets.to(device), kept.to(device))

    def digest(self) -> str:
        """Names the data set: keys, labels and targets."""
        digest = hashlib.sha256()
        for one in self._examples:
            digest.update(f"{one.key} {one.kept}".encode())
            digest.update(one.target.numpy().tobytes())
        return digest.hexdigest()[:16]


def collect(
    mllm: MLLM,
    labels: LabelStore | Sequence[Label],
    samples: Iterable[Sample],
    *,
    target: Target,
    scratch: str | os.PathLike[str],
    progress: Callable[[int, int], object],
) -> Examples:
    """Embed those of `samples` that have a label, into a nameless file in the folder `scratch`.

    `target` says what a token should learn. "label": one if it was kept. "lead": how far its score leads
    the best token left out, so that tokens kept by a hair, which is mostly noise, hardly count. "score":
    the score itself, nothing below zero, for kinds that score all tokens well. Both are divided by the
    sample's largest.
    ValueError if no sample has a label, if a label does not fit the model's tokens, or if scores are wanted
    and missing.
    """
    wanted = {one.id: one for one in labels}
    examples: dict[str, Example] = {}
    count = width = 0
    file = tempfile.TemporaryFile(dir=Path(scratch))  # noqa: SIM115 - the memory map keeps it open
    for sample in samples:
        key = sample_key(sample)
        if key not in wanted or key in examples:
            continue
        embedded = mllm.embed(sample.image_at(mllm.image_side), sample.question)
        prompt = torch.ones(embedded.prompt, dtype=torch.bool, device=embedded.embeds.device)
        prompt[embedded.visual] = False
        visual, text = embedded.embeds[embedded.visual], embedded.embeds[: embedded.prompt][prompt]
        rows = torch.cat([visual, text]).to("cpu", torch.float16)
        if not rows.isfinite().all():
            raise ValueError(f"sample {key!r}: its embeddings are not finite, or beyond float16")
        file.write(rows.numpy().tobytes())
        before = int(prompt[: int(embedded.visual[0])].sum())
        goal = _target(wanted[key], len(visual), target)
        examples[key] = Example(key, count, len(visual), len(text), before, wanted[key].kept, goal)
        count, width = count + len(rows), rows.shape[1]
        progress(len(examples), len(wanted))
    if not examples:
        raise ValueError(
            f"none of the samples has one of the {len(wanted)} labels: label these samples first"
        )
    file.flush()
    return Examples(np.memmap(file, np.float16, mode="r", shape=(count, width)), examples.values())


def _target(one: Label, visual: int, target: Target) -> Tensor:
    if one.kept[-1] >= visual or (one.score is not None and len(one.score) != visual):
        raise ValueError(f"sample {one.id!r}: its label does not fit the model's {visual} visual tokens")
    if target == "label":
        hard = torch.zeros(visual)
        hard[list(one.kept)] = 1
        return hard
    if one.score is None:
        raise ValueError(
            f"sample {one.id!r}: its label has no scores; train with target=label, "
            "or label with a kind that scores tokens: attribution, group-attribution or elite"
        )
    score = torch.tensor(one.score)
    if target == "lead":
        score = score - score.index_fill(0, torch.tensor(one.kept), score.min().item()).max()
    gain = score.clamp(min=0)
    return gain / gain.max().clamp(min=torch.finfo(gain.dtype).tiny)
