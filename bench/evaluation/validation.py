"""Validation: the kept checkpoint is the one that answers best on a validation task (paper Appendix A)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.evaluation.evaluate import evaluate
from bench.evaluation.protocol import CODE, apart_from_code, of_task
from bench.tasks import Task
from bench.tasks.load import load_tasks
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import CONFIG, Compressor, read_description
from compress.fingerprint import fingerprint
from compress.keep import Keep
from compress.labels.store import refuse_difference
from compress.micro.worlds import world_of
from compress.models.loading import MLLM
from compress.samples import Sample

NOTE = "validation"  # among the notes of a compressor


@dataclass(frozen=True, eq=False)
class Validator:
    """A function from a compressor to its score in percent on these samples, at the budget `keep`."""

    mllm: MLLM
    task: Task
    samples: Sequence[Sample]
    keep: Keep

    def __call__(self, compressor: Compressor) -> float:
        return evaluate(self.mllm, self.task, self.samples, EvoComp(compressor), self.keep).score

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that the scores depend on, besides the compressor and the model; ready for JSON."""
        told = {"task": self.task.name, "keep": self.keep}
        told |= apart_from_code(of_task(self.task, self.samples))
        told[CODE] = fingerprint(Validator, type(self.task), type(self.mllm))
        return dict(json.loads(json.dumps(told)))  # lists for tuples, as they are read again

    def refuse_other(self, folder: Path) -> None:
        """ValueError if a training in `folder` was validated in another way: scores would not compare."""
        if (folder / CONFIG).exists():
            there = read_description(folder).get("info", {}).get(NOTE)
            if isinstance(there, dict):
                refuse_difference(folder, there, self.facts)


def validator(mllm: MLLM, task: str, n: int, keep: Keep, data: str | None = None) -> Validator:
    """Validation on `n` questions of a task.

    `keep` is the budget. The questions are the miniature's, or those of the folder of benchmarks `data`.
    ValueError for unknown tasks and bad data.
    """
    ((bench, samples),) = load_tasks([task], n, "val", data=data, world=world_of(mllm.name)).items()
    return Validator(mllm, bench, samples, keep)
