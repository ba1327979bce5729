"""Recorded inputs and outputs of official implementations, and whether our code gives the same outputs.

A folder holds one `.npz` per subject; `case{i}/{name}` are its arrays, `n_cases` their number. Only the
arrays say how large anything is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE, FINE = 1e-4, 1e-5  # of floats, absolute and relative; `FINE` for attention and density


@dataclass(frozen=True)
class Case:
    """One recorded case: arrays by name, shapes as the subject's documentation has them."""

    subject: str
    number: int
    arrays: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """ValueError if the case lacks the array."""
        if name not in self.arrays:
            raise ValueError(f"{self.subject}.npz, case {self.number} lacks the array {name!r}")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def value(self, name: str) -> Any:
        """A scalar as a Python number or bool."""
        return self[name].item()


# From a case's inputs to what our code makes of them, named as the recorded outputs are.
Check = Callable[[Case], Mapping[str, Tensor | float | int | bool]]


@dataclass(frozen=True)
class Verdict:
    """One case: how many arrays were compared, and the first that differs, in words; None = all agree."""

    subject: str
    number: int
    compared: int
    difference: str | None


def read_cases(folder: Path, subject: str) -> list[Case]:
    """All cases of one subject; ValueError if the file is not of the documented form."""
    path = folder / f"{subject}.npz"
    try:
        with np.load(path) as file:
            arrays = {name: torch.as_tensor(file[name]) for name in file.files}
    except (ValueError, BadZipFile) as problem:
        raise ValueError(f"{path} is not a readable .npz file ({problem})") from problem
    if "n_cases" not in arrays:
        raise ValueError(f"{path} holds no 'n_cases': is it a file of recorded cases?")
    cases: list[Case] = []
    for number in range(int(arrays["n_cases"])):
        prefix = f"case{number}/"
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if not own:
            raise ValueError(f"{path} announces {len(cases) + 1} cases or more, but case {number} is empty")
        cases.append(Case(subject, number, own))
    return cases


def verify(folder: Path, checks: Mapping[str, Check]) -> Iterator[Verdict]:
    """Verdicts on every case of every subject that the folder holds.

    ValueError if it holds none of them, or a file is not of the documented form.
    """
    subjects = [subject for subject in checks if (folder / f"{subject}.npz").is_file()]
    if not subjects:
        raise ValueError(f"{folder} holds no recorded cases: expected {', '.join(checks)}, each as .npz")
    for subject in subjects:
        for case in read_cases(folder, subject):
            found = checks[subject](case)
            differences = (difference(name, case[name], value) for name, value in found.items())
            first = next((words for words in differences if words), None)
            yield Verdict(subject, case.number, len(found), first)


def difference(name: str, expected: Tensor, found: Tensor | float | int | bool) -> str | None:
    """Where `found` first differs from what was recorded, in words; None where it agrees.

    Integers and booleans must be equal, floats within the tolerance of their kind.
    """
    found = torch.as_tensor(found)
    if found.shape != expected.shape:
        return f"{name}: shape {list(found.shape)}, recorded {list(expected.shape)}"
    if expected.is_floating_point():
        close = FINE if "attention" in name or "density" in name else TOLERANCE
        wrong = ~torch.isclose(found.double(), expected.double(), atol=close, rtol=close, equal_nan=True)
    else:
        wrong = found != expected
    if not wrong.any():
        return None
    place = tuple(int(index) for index in wrong.nonzero()[0])
    return f"{name}{list(place) or ''}: {found[place].item()}, recorded {expected[place].item()}"
