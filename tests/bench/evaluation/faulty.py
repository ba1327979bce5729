"""Methods that go wrong in ways that tests need; other processes import them from here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.base import INPUT, Selection, Selector, View


@dataclass
class Faulty(Selector):
    """Breaks on every image, as a kernel may."""

    depth: int = INPUT

    def select(self, view: View, keep: int) -> Selection:
        raise RuntimeError("a bad kernel")


@dataclass
class Choosy(Selector):
    """Refuses images whose tokens have this mean; of others it keeps the first tokens."""

    mean: float
    depth: int = INPUT

    def select(self, view: View, keep: int) -> Selection:
        if abs(float(view.visual.mean()) - self.mean) < 1e-5:
            raise ValueError(f"a mean of {self.mean:.3f} is not to my taste")
        return Selection(torch.arange(keep))


@dataclass
class Deadly(Selector):
    """Kills its process as often as `times`, then keeps the first tokens."""

    marks: str  # a folder
    times: int = 1
    depth: int = INPUT

    def select(self, view: View, keep: int) -> Selection:
        if (done := len(list(Path(self.marks).iterdir()))) < self.times:
            (Path(self.marks) / str(done)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Selection(torch.arange(keep))
