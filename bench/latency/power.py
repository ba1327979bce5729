"""Energy, clocks and driver of a GPU, through NVML. Everything is None without a driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch

LEAST = 2.0  # seconds of work for a measurement of energy: the counter moves in steps


class Driver:
    """NVML's data on a device; all values are None if it cannot be queried."""

    def __init__(self, device: torch.device):
        self.nvml: Any = None
        if device.type != "cuda":
            return
        with suppress(ImportError):
            nvml = import_module("pynvml")
            with suppress(nvml.NVMLError):
                nvml.nvmlInit()
                identity = torch.cuda.get_device_properties(device).uuid
                self.handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}".encode())
                self.nvml = nvml

    def joules(self, work: Callable[[], object]) -> float | None:
        """Energy of one call of `work`: the mean over calls that take at least two seconds in total."""
        start = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        if start is None:
            return None
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < LEAST:
            work()
            calls += 1
        end = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        return None if end is None else (end - start) / 1000 / calls

    def facts(self) -> dict[str, Any]:
        """Driver version, current and maximum clocks, power limit."""
        if self.nvml is None:
            return {"driver": None, "clocks": None, "power limit": None}
        nvml = self.nvml
        clocks = {
            name: {
                "now MHz": self._asked("nvmlDeviceGetClockInfo", kind),
                "most MHz": self._asked("nvmlDeviceGetMaxClockInfo", kind),
            }
            for name, kind in (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM))
        }
        limit = self._asked("nvmlDeviceGetPowerManagementLimit")
        version = nvml.nvmlSystemGetDriverVersion()
        return {
            "driver": version.decode() if hasattr(version, "decode") else version,
            "clocks": clocks,
            "power limit": None if limit is None else f"{limit / 1000:.0f} W",
        }

    def _asked(self, question: str, *details: Any) -> Any:
        if self.nvml is not None:
            with suppress(self.nvml.NVMLError):
                return getattr(self.nvml, question)(self.handle, *details)
        return None
