from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compress.models.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Qwen3.5: Qwen3-VL's tower without DeepStack, and recurrent layers among those of the decoder.

    Tokens can go before the decoder only: what a recurrent layer has read stays in its state.
    """

    residuals = None

    def added(self, features: Any) -> Sequence[Tensor]:
        return ()
