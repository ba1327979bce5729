"""Audit of labels: recomputes their losses and compares them with labels without a search."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.labels.fitness import AnswerLoss
from compress.labels.labelling import LabelConfig, Labeller, sample_key
from compress.labels.store import LabelStore
from compress.models.loading import MLLM
from compress.progress import Progress
from compress.samples import Sample

AGAINST = ("random", "dpc-knn")  # kinds without a search
Losses = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Audit:
    """Losses of the same samples, in nats per response token: stored, recomputed, and of other kinds."""

    ids: tuple[str, ...]
    stored: Losses
    found: Losses
    others: Mapping[str, Losses]


def drawn(store: LabelStore, n: int) -> list[str]:
    """A uniform sample of `n` ids of the store: those with the lowest hashes, sorted."""
    ids: list[str] = store.ids.to_pylist()
    return sorted(sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())[:n])


def audit(
    mllm: MLLM,
    store: LabelStore,
    samples: Sequence[Sample],
    *,
    against: Sequence[str] = AGAINST,
    progress: Progress | None = None,
) -> Audit:
    """Compare the labels of `samples` with labels of the kinds `against`, of equal budget and groups.

    ValueError for another model than that of the labels.
    """
    store.refuse_other(mllm.name, mllm.fingerprint(), mllm.visual_tokens)
    settings: dict[str, Any] = {one.name: store.setting(one.name) for one in fields(LabelConfig)}
    config = LabelConfig(**settings)
    labellers = {kind: Labeller(mllm, replace(config, kind=kind, strategy=None)) for kind in against}
    keys = [sample_key(sample) for sample in samples]
    wanted = set(keys)
    labels = {one.id: one for one in store if one.id in wanted}
    found: list[float] = []
    theirs: dict[str, list[float]] = {kind: [] for kind in against}
    for sample in samples:
        embedded = mllm.embed(sample.visual_at(mllm.image_side), sample.question, sample.answers[0])
        kept = np.array([labels[sample_key(sample)].kept])
        found.append(float(AnswerLoss(mllm, embedded, positions=config.positions)(kept)[0]))
        for kind, labeller in labellers.items():
            theirs[kind].append(labeller(sample).loss_after)
        if progress:
            progress(len(found), len(samples))
    stored = np.array([labels[key].loss_after for key in keys])
    return Audit(
        tuple(keys), stored, np.array(found), {kind: np.array(each) for kind, each in theirs.items()}
    )
