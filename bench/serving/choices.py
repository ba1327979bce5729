"""The methods that a server was started with, without an import of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from bench.evaluation.compressors import selector_for
from bench.serving.plugin import SUPPORTED, without_class
from bench.serving.settings import NONE, Asked, Settings
from compress.base import Selector
from compress.engines.choosing import EngineChoice, check, check_tower
from compress.keep import Keep
from compress.models.loading import MLLM, outline
from compress.models.mllm import Picture

CHOICES = 256  # size of a server's cache of choices, with the number of tokens that they keep


def _nothing(ids: Tensor) -> Tensor:
    raise RuntimeError("nothing is chosen where prompts are read")


class Methods:
    """All methods of a server for one model: the default, and those that a request may name.

    `mllm` is an outline, without weights. ValueError if one of the methods cannot run in the engine.
    """

    def __init__(self, settings: Settings, source: str):
        self.settings = settings
        self.mllm: MLLM = outline(source)
        names = dict.fromkeys([settings.default.method, *settings.also])
        self.selectors: dict[str, Selector] = {
            name: selector_for(name, source) for name in names if name != NONE
        }
        self._choices: dict[tuple[Asked, Callable[[Tensor], Tensor]], EngineChoice] = {}
        for name, selector in self.selectors.items():
            keep = settings.default.keep if name == settings.default.method else None
            runs(self.mllm, selector, keep or 1)

    @property
    def names(self) -> list[str]:
        """The methods in the order of their numbers in a request's fields."""
        return list(self.selectors)

    def choice(self, asked: Asked, embed: Callable[[Tensor], Tensor] = _nothing) -> EngineChoice:
        """The selection for a request; cached, because requests seldom differ."""
        key = asked, embed
        if key not in self._choices:
            assert asked.keep is not None
            made = EngineChoice(self.mllm, self.selectors[asked.method], asked.keep, embed)
            self._choices = {**self._choices, key: made} if len(self._choices) < CHOICES else {key: made}
        return self._choices[key]

    def picture(self, prepared: Mapping[str, Any]) -> Picture:
        """The visual tokens of one image; `prepared` is the processor's output by name."""
        (found,) = self.mllm.pictures({name: value[None] for name, value in prepared.items()})
        return found


def runs(mllm: MLLM, selector: Selector, keep: Keep) -> None:
    """ValueError, with the reason, if a method cannot run in the engine on this model at this budget."""
    family = mllm.model.config.model_type
    if family not in SUPPORTED:
        raise ValueError(without_class(family))
    if family == "llava_next" and mllm.one_size:
        raise ValueError("vLLM gives an image as many tiles as its shape asks for: leave anyres at 'native'")
    check(mllm, selector, keep)
    check_tower(mllm, selector)
    built = mllm.tower_depth
    for layer in selector.tower_layers:
        if mllm.tower_block(layer) >= built:
            raise ValueError(
                f"{type(selector).__name__} reads tower layer {layer}, and the engine builds {built} of "
                f"{len(mllm.tower_layers)}: those up to the one that the projector reads"
            )


@cache
def methods_of(settings: Settings, source: str) -> Methods:
    """The methods of a server; one object per process and server."""
    return Methods(settings, source)
