"""The miniature benchmarks written as files of the real ones, so that the real loaders read them.

There is one writer per benchmark and layout; `evocomp.json` sets the protocol `micro`. Pictures are PNG, even
if the official names have another suffix, so that no pixel changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from bench.data.lmms_lab import LMMS_LAB
from bench.data.official import OFFICIAL
from bench.data.writing import write_json
from bench.tasks import TASKS
from bench.tasks.folder import MANIFEST, Manifest
from compress.files import new_folder, replacing
from evosearch.registry import find

FileLayout = Literal["official", "lmms-lab"]


def export(
    out: Path, names: Sequence[str], n: int, layout: FileLayout = "official", split: str = "test"
) -> dict[str, int]:
    """Write `n` questions of each miniature to `out`, a folder of benchmarks; return the numbers of samples.

    ValueError if the folder of a task exists: nothing is mixed or overwritten.
    """
    tasks = [find(TASKS, name, "task")() for name in names]
    for task in tasks:
        if (out / task.name).exists():
            raise ValueError(f"{out / task.name} exists: choose another folder, or remove it")
    before, sizes = Manifest.of(out).sizes, dict[str, int]()
    with ExitStack() as written:  # folders get their names together, when all are complete
        for task in tasks:
            samples = task.micro(n, split)
            folder = written.enter_context(new_folder(out / task.name))
            (OFFICIAL if layout == "official" else LMMS_LAB)[task.name](folder, samples)
            sizes[f"{task.name}/{task.part}"] = len(samples)
        with replacing(out / MANIFEST) as part:
            write_json(part, {"protocol": "micro", "sizes": {**before, **sizes}})
    return sizes
