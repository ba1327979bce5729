"""Measurements of a chain: stages in interleaved rounds, parity with torch, memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.edge.chain import STAGES, Chain, ChainOutput, EdgePrompt
from bench.edge.precision import Floats
from compress.progress import Progress


@dataclass(frozen=True)
class EdgeTimes:
    """One budget: samples in milliseconds by stage, one per round. `chunks` is None if unknown."""

    keep: int
    rows: int  # of the prompt
    context: int
    chunks: int | None
    samples: dict[str, list[float]]


@dataclass(frozen=True)
class Parity:
    """The agreement of a runtime's chain with the same quantised weights in torch."""

    questions: int  # number of questions times budgets
    same_answer: int
    same_kept: int
    worst: float  # relative L2 error of logits, the largest of all compared
    same_word: float  # share of compared logits with the same largest entry
    logits: int  # number of compared logits: those after the same tokens


@dataclass(frozen=True)
class Measurement:
    """One runtime's cells, the untouched model's first."""

    runtime: str
    label: str
    padded: bool
    cells: list[EdgeTimes]
    parity: Parity | None = None
    memory: dict[str, int | None] = field(default_factory=dict)  # bytes
    facts: list[str] = field(default_factory=list)  # notes for the reader


def measure(
    chain: Chain, question: EdgePrompt, keeps: Sequence[int], decoded: int, *, warmup: int, rounds: int,
    progress: Progress,
) -> tuple[list[EdgeTimes], int | None]:  # fmt: skip
    """Time every budget in turn, round after round, so that other load affects all of them alike.

    `decoded` tokens are decoded one by one after each prompt. The first `warmup` rounds open all sessions and
    do not count. Also return by how many bytes the memory of the process grew during these rounds (None if
    unknown).
    """
    before, added = resident(), None
    runs = {keep: list[ChainOutput]() for keep in keeps}
    for number in range(warmup + rounds):
        for keep in keeps:
            run = chain.run(question, keep, decoded + 1)
            if number >= warmup:
                runs[keep].append(run)
        if number == warmup - 1 and before is not None:
            added = max(0, (resident() or 0) - before)
        progress(number + 1, warmup + rounds)
    protocol, cells = chain.settings.protocol, []
    for keep, done in runs.items():
        rows = done[0].rows
        samples = {stage: [run.milliseconds[stage] for run in done] for stage in STAGES}
        context = chain.settings.context(keep, question.words, decoded + 1)
        cells.append(EdgeTimes(keep, rows, context, protocol.chunks(rows), samples))
    return cells, added


def parity(
    chain: Chain, reference: Chain, questions: Sequence[EdgePrompt], keeps: Sequence[int], new: int,
    stop: Sequence[int], progress: Progress,
) -> Parity:  # fmt: skip
    """Run both chains on every question and budget; compare logits as long as the tokens agree."""
    errors: list[float] = []
    answers = kept = words = 0
    for number, question in enumerate(questions):
        for keep in keeps:
            ours, theirs = (one.run(question, keep, new, stop) for one in (chain, reference))
            answers += ours.ids == theirs.ids
            kept += ours.kept == theirs.kept
            for step in range(_together(ours.ids, theirs.ids)):
                errors.append(relative(ours.logits[step], theirs.logits[step]))
                words += ours.ids[step] == theirs.ids[step]
        progress(number + 1, len(questions))
    return Parity(len(questions) * len(keeps), answers, kept, max(errors), words / len(errors), len(errors))


def _together(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """The number of logits that follow equal tokens: one more than the number of agreeing tokens."""
    agree = 0
    while agree < min(len(ours), len(theirs)) and ours[agree] == theirs[agree]:
        agree += 1
    return min(agree + 1, len(ours), len(theirs))


def relative(ours: Floats, theirs: Floats) -> float:
    """L2 distance over the norm of the reference."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def resident() -> int | None:
    """Bytes of memory used by this process; None if the system does not provide them."""
    table = Path("/proc/self/statm")
    if not table.is_file():
        return None
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
