"""Comparison with KD-TAO/DyCoke, temporal merging."""

from __future__ import annotations

from torch import Tensor

from baselines.dycoke import GROUP, DyCoke
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    method, places = DyCoke(last="lost"), case.value("tokens_per_frame")
    frames = case["video_tokens"].view(-1, places, case["video_tokens"].shape[-1])
    references = method.references(len(frames), GROUP)
    whole = references.count(None)
    share = int((1 - case.value("merging_ratio")) * places)
    kept = method.kept(frames, whole * places + (len(references) - whole) * share)
    return {
        "kept_indices_output_order": kept,
        "kept_indices": kept.sort().values,
        "tokens_per_kept_frame": (kept // places).bincount(minlength=len(frames)),
    }
