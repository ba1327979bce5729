"""Fitness of candidate token sets: the MLLM's own loss on the gold response (paper section 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from compress.labels.forward import Past, Paths, check, fast, outputs, outputs_of_any, past, product
from compress.memory import in_batches
from compress.models.loading import MLLM, Embedded

POSITIONS = ("original", "compact")
ROWS, ROWS_CPU = 8192, 1280  # in the decoder at a time (docs/performance.md)
STEP, STEP_CPU = 8, 1  # lengths are rounded up to its multiples: fuller batches, but more rows
UNSCORED = -100  # the target that cross_entropy ignores

K = TypeVar("K", bound=Hashable)
Ints = NDArray[np.integer[Any]]
Losses = NDArray[np.float64]


@dataclass
class TokenBudget:
    """The number of decoder rows at a time; it is halved permanently whenever memory runs out."""

    rows: int
    even: bool = False  # batches of nearly equal size, instead of one size with repetitions in the last

    @classmethod
    def for_device(cls, device: torch.device) -> TokenBudget:
        return cls(ROWS_CPU, even=True) if device.type == "cpu" else cls(ROWS)

    def at_once(self, length: int, count: int) -> int:
        """The number of candidates, of `count` with `length` rows each, in one batch of the decoder."""
        most = max(1, self.rows // length)
        return -(-count // -(-count // most)) if self.even else most


class CandidateShape(NamedTuple):
    """The common shape of candidates that are batched together; it depends on their samples alone."""

    prefix: int  # number of their prefix
    length: int  # rows of a candidate, padding included
    scored: int  # maximum number of scored rows


@dataclass(frozen=True, eq=False)
class _SampleRows:
    """Host-side data of a sample; rows are counted from its first."""

    first: int  # offset of its rows among those of all samples
    start: int  # rows before the first visual token
    visual: Ints  # [N]
    text: Ints  # [T] rows of other tokens after the first visual one
    positions: Ints  # [A, S], one row per axis of rotary positions
    response: Ints  # [R] token ids
    prefix: int

    def shape(self, keep: int, step: int) -> CandidateShape:
        length = keep + len(self.text)
        return CandidateShape(
            self.prefix, -(-length // step) * step, 1 << (len(self.response) - 1).bit_length()
        )


class AnswerLosses(Generic[K]):
    """Mean cross-entropy of responses when the decoder sees only some of the visual tokens.

    `launch` takes indices [P, K] into the N visual tokens of each sample, ascending in each row, and starts
    the computation of losses [P], lower is better; it returns a function that waits for them. `full` holds
    the losses with all tokens. With `positions="original"` kept tokens keep their positions, which equals
    masking the others; "compact" closes the gaps (not for M-RoPE).

    The rows before the first visual token are computed once for all samples that start with the same rows.
    Candidates of all samples of one `CandidateShape` are batched in the decoder, as many as fit into the
    `budget`. A loss does not depend on the other candidates of its batch, down to the last bit: GPUs choose
    kernels by batch size, so it is constant there; CPU kernels treat all rows alike, in blocks. Padding is at
    the end, where causal attention never looks. Only the rows of the response get logits. Layers that
    `forward` does not know run in the model's own decoder, slower and equal up to rounding only.
    """

    def __init__(
        self,
        mllm: MLLM,
        samples: Mapping[K, Embedded],
        *,
        positions: str = "original",
        budget: TokenBudget | None = None,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions!r}: choose one of {', '.join(POSITIONS)}")
        for embedded in samples.values():
            if not len(embedded.response):
                raise ValueError("the sample has no response to score: embed it with its gold answer")
        check(mllm, max(len(embedded.embeds) for embedded in samples.values()))
        self._mllm, self._decoder, self._head = mllm, mllm.decoder, mllm.head
        self._fast = fast(mllm.decoder)
        self._compact = positions == "compact" and not mllm.mrope
        self._axes = 3 if mllm.mrope else 1
        self._device = mllm.model.device
        self._step = STEP_CPU if self._device.type == "cpu" else STEP
        self._budget = budget or TokenBudget.for_device(self._device)
        self._prefixes: list[tuple[Tensor, list[Past]]] = []
        self._bank = torch.cat([embedded.embeds for embedded in samples.values()])  # [sum of S, D]
        added = [embedded.added for embedded in samples.values() if embedded.added is not None]
        self._added = torch.cat(added, 1) if added else None  # [n, sum of S, D]
        self._samples: dict[K, _SampleRows] = {}
        first = 0
        for key, embedded in samples.items():
            self._samples[key] = self._described(embedded, first)
            first += len(embedded.embeds)
        every = {key: np.arange(len(sample.visual))[None] for key, sample in self._samples.items()}
        alone = self._launch(every, at_once=1)()  # larger batches of such long rows would mostly hold copies
        self.full: dict[K, float | ValueError] = {
            key: found if isinstance(found, ValueError) else float(found[0]) for key, found in alone.items()
        }

    def launch(self, asked: Mapping[K, Ints]) -> Callable[[], dict[K, Losses | ValueError]]:
        """Start the computation; return a function that waits for the losses.

        A sample whose losses are not finite gets a ValueError instead. ValueError if there is not enough
        memory for a single candidate.
        """
        return self._launch(asked)

    # One sample -----------------------------------------------------------------------------------------

    def _described(self, embedded: Embedded, first: int) -> _SampleRows:
        visual = embedded.visual.cpu().numpy()
        rows = np.arange(int(visual[0]), len(embedded.embeds) - 1)  # the last row predicts nothing
        return _SampleRows(
            first=first,
            start=int(visual[0]),
            visual=visual,
            text=np.setdiff1d(rows, visual),
            positions=embedded.positions.cpu().numpy().reshape(self._axes, -1),
            response=embedded.response.cpu().numpy(),
            prefix=self._prefix(embedded.embeds[: int(visual[0])]),
        )

    def _prefix(self, rows: Tensor) -> int:
        """The number of the prefix with these rows; a new prefix is computed first."""
        for number, (known, _) in enumerate(self._prefixes):
            if torch.equal(known, rows):
                return number
        self._prefixes.append((rows, past(self._decoder, rows) if self._fast else []))
        return len(self._prefixes) - 1

    # Batches --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _launch(
        self, asked: Mapping[K, Ints], at_once: int | None = None
    ) -> Callable[[], dict[K, Losses | ValueError]]:
        shapes: dict[CandidateShape, list[K]] = defaultdict(list)
        for key, indices in asked.items():
            shapes[self._samples[key].shape(indices.shape[1], self._step)].append(key)
        found = []
        for shape, keys in shapes.items():
            jobs = [self._candidates(self._samples[key], shape, np.asarray(asked[key])) for key in keys]
            found += list(self._batches(shape, _Candidates.joined(jobs), at_once))
        order = [key for keys in shapes.values() for key in keys]
        return _Pending(torch.cat(found), {key: len(asked[key]) for key in order})

    def _candidates(self, sample: _SampleRows, shape: CandidateShape, indices: Ints) -> _Candidates:
        count, scored = len(indices), len(sample.response)
        text = np.broadcast_to(sample.text, (count, len(sample.text)))
        rows = np.sort(np.concatenate([sample.visual[indices], text], 1), 1)  # [P, L]
        length = rows.shape[1]
        rows = rows[:, np.minimum(np.arange(shape.length), length - 1)]
        if self._compact:
            positions: Ints = np.broadcast_to(sample.start + np.arange(shape.length), (1, *rows.shape))
        else:
            positions = sample.positions[:, rows]
        columns = np.zeros((count, shape.scored), np.int64)
        targets = np.full((count, shape.scored), UNSCORED)
        columns[:, :scored] = np.arange(length - scored, length)
        targets[:, :scored] = sample.response
        return _Candidates(rows + sample.first, positions, columns, targets)

    def _batches(
        self, shape: CandidateShape, candidates: _Candidates, at_once: int | None
    ) -> Iterator[Tensor]:
        """Yield the losses of candidates of one shape, on the device, one batch at a time."""
        total = len(candidates.rows)

        def size(left: int) -> int:
            return at_once or self._budget.at_once(shape.length, left)

        def losses(start: int, count: int) -> Tensor:
            return self._losses(shape, candidates.part(start, count))[: total - start]

        def smaller(count: int) -> None:
            if count == 1:
                raise ValueError(
                    "there is not enough memory for one candidate at a time: choose a smaller dtype, such as "
                    "bfloat16, or another device"
                )
            self._budget.rows = count // 2 * shape.length

        return in_batches(total, size, losses, smaller)

    def _losses(self, shape: CandidateShape, batch: _Candidates) -> Tensor:
        """Losses [B] of candidates with the same prefix."""
        columns, targets = self._sent(batch.columns), self._sent(batch.targets)
        if self._device.type == "cpu" or not self._fast:
            paths = Paths.parting(batch.rows, batch.positions).to(self._device)
        else:
            paths = Paths.apart(self._sent(batch.rows), self._sent(batch.positions))
        rows, before = self._prefixes[shape.prefix]
        if self._fast:
            hidden = outputs(self._decoder, self._bank, paths, columns, before, self._added)  # [B, R, D]
        else:
            hidden = outputs_of_any(self._mllm, self._bank, paths, columns, rows, self._added)
        logits = product(self._head, hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), targets, reduction="none", ignore_index=UNSCORED
        )  # [B, R]
        return losses.sum(1) / (targets != UNSCORED).sum(1)

    def _sent(self, array: Ints) -> Tensor:
        """Copy an array to the device without synchronising."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


class AnswerLoss:
    """`AnswerLosses` of one sample: call it with indices [P, K], and it returns losses [P].

    `full` is the loss with all tokens. `max_tokens` is the number of decoder rows at a time. Default: by
    device. Raises ValueError for losses that are not finite.
    """

    def __init__(
        self, mllm: MLLM, embedded: Embedded, *, positions: str = "original", max_tokens: int | None = None
    ):
        budget = None if max_tokens is None else TokenBudget(max_tokens)
        self._losses = AnswerLosses(mllm, {"": embedded}, positions=positions, budget=budget)
        full = self._losses.full[""]
        if isinstance(full, ValueError):
            raise full
        self.full = full

    def __call__(self, indices: Ints) -> Losses:
        found = self._losses.launch({"": indices})()[""]
        if isinstance(found, ValueError):
            raise found
        return found


class _Candidates(NamedTuple):
    """Candidates of one shape, as sent to the device."""

    rows: Ints  # [P, L] indices into the rows of all samples
    positions: Ints  # [A, P, L]
    columns: Ints  # [P, R] columns in 0 .. L - 1 that predict the scored tokens
    targets: Ints  # [P, R]

    @staticmethod
    def joined(parts: list[_Candidates]) -> _Candidates:
        rows, positions, columns, targets = zip(*parts, strict=True)
        return _Candidates(
            np.concatenate(rows),
            np.concatenate(positions, 1),
            np.concatenate(columns),
            np.concatenate(targets),
        )

    def part(self, start: int, size: int) -> _Candidates:
        """Exactly `size` candidates; the first is repeated if there are fewer."""
        end = min(start + size, len(self.rows))
        chosen = np.r_[start:end, np.full(start + size - end, start)]
        return _Candidates(
            self.rows[chosen], self.positions[:, chosen], self.columns[chosen], self.targets[chosen]
        )


class _Pending(Generic[K]):
    """Losses of samples, in this order, during their copy from the device."""

    def __init__(self, losses: Tensor, counts: Mapping[K, int]):
        self._counts = counts
        self._arrived: torch.cuda.Event | None = None
        self._host = losses
        if losses.is_cuda:  # the copy is queued now, before later launches
            self._host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
            self._host.copy_(losses, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(losses.device))

    def __call__(self) -> dict[K, Losses | ValueError]:
        if self._arrived is not None:
            self._arrived.synchronize()
        parts = np.split(self._host.double().numpy(), np.cumsum(list(self._counts.values()))[:-1])
        return {key: _finite(part) for key, part in zip(self._counts, parts, strict=True)}


def _finite(losses: Losses) -> Losses | ValueError:
    if np.isfinite(losses).all():
        return losses
    return ValueError(
        "the model's loss on this sample is not a finite number; "
        "its weights or the image are broken, or its precision is too low (try float32)"
    )
