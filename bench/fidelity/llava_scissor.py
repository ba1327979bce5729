"""Comparison with HumanMLLM/LLaVA-Scissor; recorded cases do not depend on its code's random order."""

from __future__ import annotations

from torch import Tensor

from baselines.llava_scissor import LLaVAScissor, spatial
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    frames, threshold = case["video_tokens"], case.value("tau")
    _, groups = LLaVAScissor.merged(frames, threshold)
    tokens, nearest = LLaVAScissor.joined(frames.flatten(0, 1), groups)
    return {
        "num_after_spatial": len(spatial(frames, threshold)[0]),
        "num_after_temporal": len(groups),
        "nearest_representative": nearest,
        "output_tokens": tokens,
    }
