"""Marks at the boundaries of a request's stages, by hooks around those of `attach`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.latency.clock import Clock, Moment
from compress.base import VISION, Selector, TowerSelector
from compress.models.loading import MLLM


class Stages:
    """Seconds of vision encoding, selection and prefill in the first pass of one request.

    Selection is the work that compression adds: in front of the decoder and of the layers that drop tokens,
    everything between the call of the module and the module's own work (signals, selection, gathering, masks,
    and for methods that act at the tower the projection of the kept tokens), and merging inside the tower.
    Vision and prefill exclude it.
    """

    def __init__(self, mllm: MLLM, clock: Clock, depths: tuple[int, ...]):
        decoder = mllm.decoder
        self.mllm, self.clock = mllm, clock
        self.stages = [decoder, *(decoder.layers[max(0, depth)] for depth in depths if depth >= VISION)]
        self.open = True
        self.choosing: list[tuple[Moment, Moment]] = []
        self.merging: list[tuple[Moment, Moment]] = []
        self.vision: list[Moment] = []
        self.prefill: list[Moment] = []
        self.started: Moment = None

    def watch(self, selector: Selector) -> Selector:
        """Return the same method with its merging timed."""
        if not isinstance(selector, TowerSelector):
            return selector
        watched, merge = copy.copy(selector), selector.merge

        def timed(*args: Any) -> Any:
            start = self.clock.mark()
            merged = merge(*args)
            self.merging.append((start, self.clock.mark()))
            return merged

        watched.merge = timed  # type: ignore[method-assign, assignment]
        return watched

    @contextmanager
    def outer(self) -> Iterator[None]:
        """Set the marks that come before the hooks of an `attach` inside this block."""
        mllm = self.mllm
        handles = [
            mllm.tower.register_forward_pre_hook(self._noting(self.vision)),
            mllm.decoder.register_forward_pre_hook(self._noting(self.prefill)),
            *(module.register_forward_pre_hook(self._start) for module in self.stages),
        ]
        yield from _until_left(handles)

    @contextmanager
    def inner(self) -> Iterator[None]:
        """Set the marks that come after the hooks of an `attach` outside this block."""
        mllm = self.mllm
        handles = [
            mllm.tower.register_forward_hook(self._noting(self.vision)),
            mllm.projector.register_forward_hook(self._noting(self.vision)),
            *(module.register_forward_pre_hook(self._end) for module in self.stages),
            mllm.head.register_forward_hook(self._last),
        ]
        yield from _until_left(handles)

    def seconds(self) -> tuple[float, float, float]:
        """Seconds of vision encoding, selection and prefill, once the device has finished its work."""

        def spent(pairs: list[tuple[Moment, Moment]]) -> float:
            return sum(self.clock.seconds(*pair) for pair in pairs)

        merging, choosing = spent(self.merging), spent(self.choosing)
        vision = self.clock.seconds(self.vision[0], self.vision[-1]) - merging if self.vision else 0.0
        return vision, merging + choosing, self.clock.seconds(self.prefill[0], self.prefill[-1]) - choosing

    def _noting(self, marks: list[Moment]) -> Callable[..., None]:
        def note(*_: Any) -> None:
            if self.open:
                marks.append(self.clock.mark())

        return note

    def _start(self, *_: Any) -> None:
        if self.open:
            self.started = self.clock.mark()

    def _end(self, *_: Any) -> None:
        if self.open:
            self.choosing.append((self.started, self.clock.mark()))

    def _last(self, *_: Any) -> None:
        if self.open:
            self.prefill.append(self.clock.mark())
        self.open = False


def _until_left(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
