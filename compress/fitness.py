"""Fitness of candidate token sets: the MLLM's own loss on the gold response (paper section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from compress.models import MLLM, Embedded

POSITIONS = ("original", "compact")


class AnswerLoss:
    """Mean cross-entropy of the response tokens when the decoder sees only some of the visual tokens.

    Call it with indices [P, K] into the N visual tokens, ascending in each row; it returns losses [P], lower
    is better. `full` is the loss with all of them. `positions="original"` lets kept tokens keep their places,
    which equals masking the others; "compact" closes the gaps (not of M-RoPE). The rows before the first
    visual token are computed once per sample, and candidates go through the decoder together, at most
    `max_tokens` rows at a time (a matter of memory and speed only).
    """

    def __init__(
        self, mllm: MLLM, embedded: Embedded, *, positions: str = "original", max_tokens: int = 1024
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions!r}: choose one of {', '.join(POSITIONS)}")
        if not len(embedded.response):
            raise ValueError("the sample has no response to score: embed it with its gold answer")
        self._decoder, self._head = mllm.decoder, mllm.head
        self._compact = positions == "compact" and not mllm.mrope
        self._max_tokens = max_tokens
        self._embeds = embedded.embeds[:-1]  # nothing is predicted from the last row
        self._positions = embedded.positions
        self._visual, self._response = embedded.visual, embedded.response
        self._start = int(embedded.visual[0])
        rows = torch.arange(self._start, len(self._embeds), device=self._embeds.device)
        self._text = rows[~torch.isin(rows, embedded.visual)]
        self._prefix = self._remember_prefix()
        self.full = float(self(np.arange(len(self._visual))[None])[0])

    @torch.inference_mode()
    def __call__(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        places = torch.as_tensor(np.ascontiguousarray(indices), device=self._visual.device)
        kept = self._visual[places]  # [P, K]
        rows = torch.cat([kept, self._text.expand(len(kept), -1)], 1).sort(1).values
        step = max(1, self._max_tokens // rows.shape[1])
        losses = torch.cat([self._losses(part) for part in rows.split(step)])
        if not losses.isfinite().all():
            raise ValueError(
                "the model's loss on this sample is not a finite number; "
                "its weights or the image are broken, or its precision is too low (try float32)"
            )
        return losses.double().cpu().numpy()

    def _losses(self, rows: Tensor) -> Tensor:
        """Losses [p] of the prefix followed by each of these rows [p, L], which end with the response."""
        count, length = rows.shape
        positions = self._positions[..., rows]
        if self._compact:
            positions = self._start + torch.arange(length, device=rows.device).expand(count, -1)
        # The mask says that gaps between positions are not borders between packed sequences.
        seen = torch.ones(count, self._start + length, dtype=torch.long, device=rows.device)
        hidden = self._decoder(
            inputs_embeds=self._embeds[rows],
            attention_mask=seen,
            position_ids=positions,
            past_key_values=self._prefix,
            use_cache=self._prefix is not None,
        ).last_hidden_state
        logits = self._head(hidden[:, -len(self._response) :])  # [p, R, V]
        targets = self._response.expand(count, -1)
        return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").mean(1)

    @torch.inference_mode()
    def _remember_prefix(self) -> Cache | None:
        if self._start == 0:
            return None
        cache: Any = DynamicCache(config=self._decoder.config)
        self._decoder(inputs_embeds=self._embeds[None, : self._start], past_key_values=cache, use_cache=True)
        return Cache(layers=[_FrozenLayer(layer.keys, layer.values) for layer in cache.layers])


class _FrozenLayer(DynamicLayer):
    """Keys and values of one prefix that are shared by any number of candidates and never grow."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.keys: Tensor = keys  # [1, heads, rows, width], like the values
        self.values: Tensor = values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        shape = (len(key_states), -1, -1, -1)
        keys = torch.cat([self.keys.expand(shape), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(shape), value_states], dim=-2)
