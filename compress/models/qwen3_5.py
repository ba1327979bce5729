from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compress.models.qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Qwen3.5: Qwen3-VL's tower without DeepStack, and a decoder with recurrent layers.

    Tokens can be dropped before the decoder only: a recurrent layer cannot remove tokens from its state.
    """

    residuals = None

    def added(self, features: Any) -> Sequence[Tensor]:
        return ()
