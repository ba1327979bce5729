"""The miniature benchmarks as files of the big ones, so that the real loaders read them.

One writer per benchmark and layout; `evocomp.json` says that they are asked under protocol `micro`. Pictures
are PNG, whatever the official names end in, so that not a pixel changes.
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
    """Write `n` questions of each miniature to `out`, a folder of benchmarks; returns numbers of samples.

    ValueError if one of the tasks is there already: nothing is mixed or overwritten.
    """
    tasks = [find(TASKS, name, "task")() for name in names]
    for task in tasks:
        if (out / task.name).exists():
            raise ValueError(f"{out / task.name} exists: choose another folder, or remove it")
    before, sizes = Manifest.of(out).sizes, dict[str, int]()
    with ExitStack() as written:  # folders take their names together, when all are complete
        for task in tasks:
            samples = task.micro(n, split)
            folder = written.enter_context(new_folder(out / task.name))
            (OFFICIAL if layout == "official" else LMMS_LAB)[task.name](folder, samples)
            sizes[f"{task.name}/{task.part}"] = len(samples)
        with replacing(out / MANIFEST) as part:
            write_json(part, {"protocol": "micro", "sizes": {**before, **sizes}})
    return sizes
