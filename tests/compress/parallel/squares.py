"""A work that tests send to other processes: it imports nothing slow, for they start often."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Square:
    """Squares numbers and says which process did; 3, 5, 9 and 11 go wrong in some way."""

    folder: Path
    device: str
    machine: str = "cpu"
    forks: bool = True

    @property
    def about(self) -> dict[str, str]:
        return {"does": "squares"}

    def __call__(self, job: int) -> Any:
        if job == 3:
            raise ValueError("three cannot be squared")
        if job == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 9 and self.first(job):
            raise RuntimeError("the device is in a bad state")
        if job == 11 and self.device == "cpu:0":
            raise ValueError("eleven is not squared on cpu:0")
        time.sleep(0.01)
        return (lambda: job) if job == 13 else (job * job, os.getpid())

    def first(self, job: int) -> bool:
        marker = self.folder / str(job)
        new = not marker.exists()
        marker.touch()
        return new


def square(folder: Path, device: str) -> Square:
    if (folder / "broken").exists():
        raise ValueError(f"cannot load a model on {device}")
    return Square(folder, device)
