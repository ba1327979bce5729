"""Training examples of a compressor: features and targets of the labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from compress.compressor.network import Batch, Tokens, pack
from compress.files import digest_of
from compress.labels.labelling import sample_key
from compress.labels.store import Label, LabelStore
from compress.parallel.processes import Processes
from compress.samples import Sample
from compress.training.features import Features, Say, TokenReader

Target = Literal["label", "lead", "score"]


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled sample: its key, a function that reads its features, and its label."""

    key: str
    source: TokenReader
    label: Label


class TrainingBatch(NamedTuple):
    """A batch with its targets [B, N] in [0, 1] and its labels [B, N] as booleans."""

    batch: Batch
    targets: Tensor
    kept: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        batch = Batch(*(part.to(device) for part in self.batch))
        return TrainingBatch(batch, self.targets.to(device), self.kept.to(device))


class Examples:
    """The labelled samples, sorted by key, so that the input order does not matter."""

    def __init__(self, examples: Iterable[Example], target: Target):
        self._examples, self._target = sorted(examples, key=lambda one: one.key), target

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def lesson(self, places: Iterable[int], *, text: bool) -> TrainingBatch:
        """Return the samples at `places` as one batch on the CPU, with or without their text tokens."""
        chosen = [self._examples[place] for place in places]
        read = [one.source() for one in chosen]
        batch = pack([Tokens(one.visual.float(), one.text.float(), one.before) for one in read], text=text)
        kept = torch.zeros(batch.valid.shape, dtype=torch.bool)
        targets = []
        for row, (one, tokens) in enumerate(zip(chosen, read, strict=True)):
            targets.append(target_of(one.label, len(tokens.visual), self._target))
            kept[row, list(one.label.kept)] = True
        return TrainingBatch(batch, pad_sequence(targets, batch_first=True), kept)

    def digest(self) -> str:
        """Return a digest of the keys and of the parts of the labels that training uses."""
        with_score = self._target != "label"
        return digest_of(
            repr((one.key, one.label.kept, one.label.score if with_score else None)) for one in self._examples
        )


def collect(
    labels: LabelStore | Sequence[Label],
    samples: Iterable[Sample],
    features: Features,
    *,
    target: Target,
    processes: Processes,
    progress: Callable[[int, int], object],
    say: Say,
) -> Examples:
    """Return those of `samples` that have a label, with their features stored.

    Each process computes its share of the features if storage is shared.

    `target` is the training target of a token. "label": 1 if it was kept, else 0. "lead": the lead of its
    score over the best token left out, so that tokens with a marginal lead, which is mostly noise, hardly
    count. "score": the score itself, clipped at zero, for label kinds that score all tokens well. "lead" and
    "score" are divided by the largest value in the sample.

    ValueError if no sample has a label, if a label does not fit the model's tokens (raised during training
    if features are recomputed), if scores are required and missing, or if there is no room for the features.
    """
    wanted = {one.id: one for one in labels}
    chosen: dict[str, Sample] = {}
    for sample in samples:
        if (key := sample_key(sample)) in wanted:
            chosen.setdefault(key, sample)
    if not chosen:
        raise ValueError(
            f"none of the samples has one of the {len(wanted)} labels: label these samples first"
        )
    for key in chosen:
        if target != "label":
            _score(wanted[key])
    features.announce(list(chosen.values()), say if processes.first else lambda text: None)
    examples = []
    for number, (key, sample) in enumerate(chosen.items()):
        mine = number % processes.count == processes.place
        source = features.keep(sample, mine)
        if mine and (visual := features.visual_tokens(source)) is not None:
            target_of(wanted[key], visual, target)  # raises now if the label does not fit
        examples.append(Example(key, source, wanted[key]))
        progress(number + 1, len(chosen))
    processes.wait()
    return Examples(examples, target)


def target_of(one: Label, visual: int, target: Target) -> Tensor:
    """Return the targets of the `visual` tokens, [N] in [0, 1]."""
    if one.kept[-1] >= visual or (one.score is not None and len(one.score) != visual):
        raise ValueError(f"sample {one.id!r}: its label does not fit the model's {visual} visual tokens")
    if target == "label":
        hard = torch.zeros(visual)
        hard[list(one.kept)] = 1
        return hard
    score = _score(one)
    if target == "lead":
        score = score - score.index_fill(0, torch.tensor(one.kept), score.min().item()).max()
    gain = score.clamp(min=0)
    return gain / gain.max().clamp(min=torch.finfo(gain.dtype).tiny)


def _score(one: Label) -> Tensor:
    if one.score is None:
        raise ValueError(
            f"sample {one.id!r}: its label has no scores; train with target=label, "
            "or label with a kind that scores tokens: attribution, group-attribution or elite"
        )
    return torch.tensor(one.score)
