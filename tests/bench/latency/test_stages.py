"""The parts of a request, under a clock that only the model's layers and the method itself move."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest

from baselines import DARTInput, FastV, ToMe
from bench.latency.modes import Eager, Static
from bench.latency.request import LatencyCell, LatencyRunner
from compress.base import INPUT, VISION, Selection, Selector, View, top_k
from compress.models.loading import MLLM
from compress.models.static import static_cache

TOWER, PROJECTOR, DECODER, HEAD = 4 * 10.0, 5.0, 6 * 1.0, 0.5  # as `Ticks.moved_by` has it


@dataclass
class Slow(Selector):
    """Takes 100 to choose."""

    ticks: Any
    depths: tuple[int, ...]

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {depth: max(keep, 60 - 10 * depth) for depth in self.depths}

    def select(self, view: View, keep: int) -> Selection:
        self.ticks.now += 100
        return Selection(top_k(view.hidden.norm(dim=-1), keep))


def rig(
    mllm: MLLM, pictures, ticks, selector: Selector | None, match="tokens", steps: int = 3
) -> LatencyRunner:
    inputs = mllm.prepare(pictures[:1], ["what color is the star ?"])
    made = LatencyRunner(mllm, {"method": selector}, inputs, steps=steps, match=match)
    made.clock = ticks
    return made


def test_vanilla_has_vision_and_prefill_and_no_selection(tiny: MLLM, pictures, ticks):
    with ticks.moved_by(tiny):
        shot = rig(tiny, pictures, ticks, None).shoot(LatencyCell("method", 144))
    assert (shot.vision, shot.selection, shot.prefill) == (TOWER + PROJECTOR, 0, DECODER + HEAD)


def test_a_token_after_the_first_takes_what_one_pass_of_the_decoder_takes(tiny: MLLM, pictures, ticks):
    for steps, step in ((3, DECODER + HEAD), (1, None)):
        made = rig(tiny, pictures, ticks, None, steps=steps)
        made.now = ticks.mark
        with ticks.moved_by(tiny):
            shot = made.shoot(LatencyCell("method", 144))
        first = TOWER + PROJECTOR + DECODER + HEAD
        assert (shot.first, shot.step) == (first, step)
        assert shot.total == first + (steps - 1) * (DECODER + HEAD)


@pytest.mark.parametrize(
    ("depths", "chosen"), [((INPUT,), 100), ((2,), 100), ((1, 3, 4), 300), ((VISION,), 100 + PROJECTOR)]
)
def test_choosing_is_selection_wherever_it_happens(tiny: MLLM, pictures, ticks, depths, chosen):
    """Of a method at the tower, what stays is projected when it has chosen."""
    with ticks.moved_by(tiny):
        shot = rig(tiny, pictures, ticks, Slow(ticks, depths)).shoot(LatencyCell("method", 20))
    # The projector is called in its usual place too, with nothing to project.
    assert (shot.vision, shot.selection, shot.prefill) == (TOWER + PROJECTOR, chosen, DECODER + HEAD)


def test_merging_in_the_tower_is_selection_and_not_vision(tiny: MLLM, pictures, ticks):
    class Merging(ToMe):
        def merge(self, view, keep):
            ticks.now += 7
            return super().merge(view, keep)

    with ticks.moved_by(tiny):
        shot = rig(tiny, pictures, ticks, Merging()).shoot(LatencyCell("method", 40))
    assert shot.selection == 7 * tiny.tower_depth + PROJECTOR  # what stays is projected later
    assert shot.vision == TOWER + PROJECTOR


@pytest.mark.parametrize("selector", [FastV(), DARTInput(), ToMe()], ids=lambda one: type(one).__name__)
def test_nothing_is_left_attached(tiny: MLLM, pictures, ticks, selector: Selector):
    def hooks() -> int:
        modules = tiny.model.modules()
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)

    before, options = hooks(), dict(vars(selector))
    rig(tiny, pictures, ticks, selector).shoot(LatencyCell("method", 40))
    assert hooks() == before and vars(selector) == options


def test_a_shot_counts_the_tokens_that_were_asked_for(tiny: MLLM, pictures, ticks):
    """The first pass makes one token, and every later one another; nothing ends early."""
    passes = []
    handle = tiny.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        shot = rig(tiny, pictures, ticks, FastV(), steps=5).shoot(LatencyCell("method", 40))
        alone = rig(tiny, pictures, ticks, FastV(), steps=1).shoot(LatencyCell("method", 40))
    finally:
        handle.remove()
    assert len(passes) == 5 + 1
    assert shot.step is not None and 0 < shot.first < shot.total
    assert alone.step is None


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that were made, and decoders that nobody compiles."""
    made: list[Any] = []

    def remembered(*given) -> Any:
        made.append(static_cache(*given))
        return made[-1]

    monkeypatch.setattr("bench.latency.modes.static_cache", remembered)
    monkeypatch.setattr("bench.latency.modes.compile_decoder", lambda mllm, graphs: mllm.decoder.forward)
    return made


@pytest.mark.parametrize(("mode", "times"), [("static", 2), ("compiled", 2), ("graphs", 1)])
def test_the_fixed_cache_is_as_long_as_what_is_left_and_recorded_ones_serve_again(
    tiny: MLLM, pictures, ticks, caches, mode: str, times: int
):
    made, cell = rig(tiny, pictures, ticks, DARTInput(), "equivalent"), LatencyCell("method", 20, mode)
    text = made.inputs["input_ids"].shape[1] - 144
    made.shoot(cell)
    made.shoot(cell)
    assert len(caches) == times
    for cache in caches:
        assert {layer.max_cache_len for layer in cache.layers} == {text + 20 + 3}
        assert int(cache.get_seq_length()) == text + 20 + 2  # the last token is not read


@pytest.mark.parametrize(("mode", "kept"), [("static", False), ("compiled", False), ("graphs", True)])
def test_between_requests_only_recorded_graphs_hold_a_cache(
    tiny: MLLM, pictures, ticks, caches, mode: str, kept: bool
):
    """At once, since garbage is not collected while cells are timed."""
    made = rig(tiny, pictures, ticks, DARTInput())
    gc.disable()
    try:
        made.shoot(LatencyCell("method", 20, mode))
        keys = weakref.ref(caches.pop().layers[0].keys)
        assert (keys() is not None) == kept
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["eager", "static", "graphs"])
def test_a_request_that_fails_leaves_nothing(tiny: MLLM, pictures, ticks, caches, mode: str, monkeypatch):
    made, cell = rig(tiny, pictures, ticks, DARTInput()), LatencyCell("method", 20, mode)
    made.shoot(cell)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Eager, "answer", fails)
        patch.setattr(Static, "answer", fails)
        made.shoot(cell)
    assert made.runs == {}
    made.shoot(cell)


def fails(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("selector", "why"),
    [(FastV(), "drops tokens between the decoder's layers"), (Slow(None, (9,)), "acts at depth 9")],
)
def test_what_a_mode_or_method_cannot_do_is_told(tiny: MLLM, pictures, ticks, selector, why: str):
    with pytest.raises(ValueError, match=why):
        rig(tiny, pictures, ticks, selector).check(LatencyCell("method", 60, "static"))


def test_costs_are_of_what_really_entered_the_layers(tiny: MLLM, pictures, ticks):
    made = rig(tiny, pictures, ticks, FastV(), "equivalent")
    ledger = made.cost(LatencyCell("method", 40)).ledger
    assert ledger.entering[0] == 144 and ledger.average == pytest.approx(40, abs=1)
    assert ledger.selection > 0
    whole = rig(tiny, pictures, ticks, None).cost(LatencyCell("method", 144)).ledger
    assert list(whole.entering) == [144] * 6 and whole.text == ledger.text
