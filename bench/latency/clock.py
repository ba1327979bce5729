"""Clocks of a device: times of events, measured on the host or on the device itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from bench.evaluation.times import NOW, ClockKind

Moment = Any  # a moment that only its own clock can read


class Clock(Protocol):
    """Marks moments in the order of the device's work."""

    def mark(self) -> Moment: ...

    def seconds(self, start: Moment, end: Moment) -> float:
        """Return the seconds between two marks; call `wait` first."""
        ...

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        ...

    def forget_peak(self) -> None: ...

    def peak(self) -> int | None:
        """Most bytes in use since `forget_peak`; None if they are not counted."""
        ...


class HostClock:
    """The host's clock: work is done when the call returns.

    Memory is that of the whole process; it is available on Linux only.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self.now = now

    def mark(self) -> float:
        return self.now()

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def wait(self) -> None:
        pass

    def forget_peak(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int | None:
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return None


class CudaClock:
    """Events in the GPU's own stream: the time between two of them includes waiting for the host."""

    def __init__(self, device: torch.device):
        self.device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1000

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def forget_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device)


def clock_of(device: torch.device, kind: ClockKind = "wall") -> Clock:
    """Return the clock for a model on this device; ValueError if there is none."""
    if kind == "processor" and (device.type != "cpu" or torch.get_num_threads() > 1):
        raise ValueError(
            "processor time is that of one thread on a cpu: choose --device cpu and set OMP_NUM_THREADS=1, "
            "or --clock wall"
        )
    if device.type == "cuda":
        return CudaClock(device)
    if device.type == "cpu":
        return HostClock(NOW[kind])
    raise ValueError(f"latency is measured on cpu and cuda, not on {device.type}")
