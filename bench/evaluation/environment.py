"""The environment of a result: versions and machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("evocomp", "torch", "transformers", "deap")


def environment() -> dict[str, str]:
    """Return versions, processor, cores that this process may use, torch threads and accelerator."""
    import torch  # imported here because it takes a second

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(_cores()),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_device(device: str) -> None:
    """ValueError if the device is not available."""
    import torch

    try:
        torch.zeros(1, device=device).item()  # a device without memory, such as meta, gives no number
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        why = str(problem).partition("\n")[0]
        raise ValueError(f"--device {device} cannot be used here ({why}): try cpu or cuda") from problem
