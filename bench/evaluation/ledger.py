"""The cost of a run: visual tokens per layer -> equivalent tokens, prefill and decoding FLOPs, cache bytes.

All figures follow from the tokens that actually entered each layer (`attach`'s trace), never from the
requested budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat

from compress.documents import Positive

if TYPE_CHECKING:
    from compress.attach.prefill import Record


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder with grouped queries and gated (SwiGLU) feed-forward, as in Llama and Qwen2.5."""

    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """Read the sizes from the configuration of a decoder, for instance `mllm.decoder.config`."""
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            vocabulary=config.vocab_size,
        )


@dataclass(frozen=True)
class Ledger:
    """The cost of one sample: `entering[i]` visual and `text` other tokens enter decoder layer i.

    `cached[i]` visual tokens are in the cache of layer i after the prefill (None: all that entered it);
    `selection` is the method's own FLOPs for selection. Means over samples give the cost of the mean sample
    (attention is quadratic, so this is not quite the mean cost).
    """

    shape: DecoderShape
    entering: Sequence[NonNegativeFloat]
    text: NonNegativeFloat
    cached: Sequence[NonNegativeFloat] | None = None
    selection: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        for counts in (self.entering, self.in_cache):
            if len(counts) != self.shape.layers:
                raise ValueError(f"{len(counts)} token counts for a decoder of {self.shape.layers} layers")

    @classmethod
    def mean(cls, shape: DecoderShape, records: Sequence[Record], counted: int | None = None) -> Ledger:
        """The ledger of the mean sample; selection costs the mean of the first `counted`, 0 if uncounted."""
        chosen = [one.selection_flops for one in records[:counted] if one.selection_flops is not None]
        return cls(
            shape,
            entering=_means([one.entering for one in records]),
            text=fmean(one.text for one in records),
            cached=_means([one.cached for one in records]),
            selection=fmean(chosen or [0.0]),
        )

    @property
    def leaving(self) -> Sequence[float]:
        """Visual tokens leaving each layer: those that enter the next one."""
        return (*self.entering[1:], self.entering[-1])

    @property
    def in_cache(self) -> Sequence[float]:
        """Visual tokens in the cache of each layer after the prefill."""
        return self.entering if self.cached is None else self.cached

    @property
    def average(self) -> float:
        """Equivalent visual tokens: the mean over layers of the tokens entering a layer."""
        return sum(self.entering) / len(self.entering)

    @property
    def average_leaving(self) -> float:
        """The mean over layers of the visual tokens leaving a layer, as some papers count (SparseVLM)."""
        return sum(self.leaving) / len(self.leaving)

    @property
    def prefill_flops(self) -> float:
        """Multiplications and additions of the prefill, two per multiply-add, for one row of logits.

        Includes projections, full-square attention (as in kernels without causal skipping), feed-forward and
        the method's own selection. Leaves out norms, rotary tables and softmax, as FLOP counters do, and the
        vision tower.
        """
        lengths = [visual + self.text for visual in self.entering]
        return sum(self._layer(n, n) for n in lengths) + self._head() + self.selection

    def decode_flops(self, steps: int = 1) -> float:
        """FLOPs of `steps` tokens decoded one by one after the prefill; each attends to all before it."""
        return sum(self._step(done) for done in range(steps))

    def kv_bytes(self, element: int = 2) -> float:
        """Bytes of keys and values after the prefill; `element` bytes per number, 2 = half precision."""
        row = 2 * self.shape.kv_heads * self.shape.head_dim * element
        return sum((visual + self.text) * row for visual in self.in_cache)

    def _step(self, done: int) -> float:
        return sum(self._layer(1, visual + self.text + done + 1) for visual in self.in_cache) + self._head()

    def _layer(self, length: float, seen: float) -> float:
        """FLOPs of one layer for `length` new rows, each attending to `seen` rows, the new ones included."""
        shape = self.shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        projections = 2 * shape.hidden * (2 * queries + 2 * keys)  # q and o; k and v
        feed_forward = 2 * 3 * shape.hidden * shape.intermediate  # gate, up, down
        attention = 2 * 2 * seen * queries  # scores and mixing, per query row
        return length * (projections + feed_forward + attention)

    def _head(self) -> int:
        return 2 * self.shape.hidden * self.shape.vocabulary


def _means(rows: Sequence[Sequence[int]]) -> tuple[float, ...]:
    return tuple(fmean(column) for column in zip(*rows, strict=True))
