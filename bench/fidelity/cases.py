"""Recorded inputs and outputs of official implementations, and their comparison with our outputs.

A folder has one `.npz` file per subject; `case{i}/{name}` are its arrays, `n_cases` is their number. All
sizes are read from the arrays.
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
    """One recorded case: arrays by name, with shapes as in the subject's documentation."""

    subject: str
    number: int
    arrays: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """The array `name`; ValueError if the case lacks it."""
        if name not in self.arrays:
            raise ValueError(f"{self.subject}.npz, case {self.number} lacks the array {name!r}")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def value(self, name: str) -> Any:
        """A scalar as a Python number or bool."""
        return self[name].item()


# Maps a case to our outputs for its inputs, named like the recorded outputs.
Check = Callable[[Case], Mapping[str, Tensor | float | int | bool]]


@dataclass(frozen=True)
class Verdict:
    """One case: the number of compared arrays, and the first difference in words; None if all agree."""

    subject: str
    number: int
    compared: int
    difference: str | None


def read_cases(folder: Path, subject: str) -> list[Case]:
    """All cases of one subject; ValueError if the file does not have the documented form."""
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
    """Yield verdicts on every case of every subject in the folder.

    ValueError if it has no subject, or if a file does not have the documented form.
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
    """The first difference of `found` from the recorded array, in words; None if they agree.

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
