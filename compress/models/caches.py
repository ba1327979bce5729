"""The key-value cache: its name in the installed transformers, and the prefill that filled it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from warnings import warn

import transformers
from packaging.version import Version
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import create_causal_mask

NAMES = ("cache", "past_key_values")  # in calls and outputs, the newest first: 5.24 renamed it
TESTED = Version("5.24")  # the newest transformers that the tests have passed on


def name_in(function: Any) -> str:
    """The argument by which a transformers function takes the cache. ValueError if no known name fits."""
    known = [name for name in NAMES if name in inspect.signature(function).parameters]
    if not known:
        raise ValueError(
            f"transformers {transformers.__version__} names the cache neither {' nor '.join(NAMES)}: "
            f"install transformers {TESTED}"
        )
    return known[0]


CACHE = name_in(create_causal_mask)  # its name in this release
READ = NAMES[NAMES.index(CACHE) :]  # names that this release accepts


def cache_in(call: Mapping[str, Any] | Sequence[Any]) -> Any:
    """The cache among the named arguments of a call, or in a model's output or a tuple; None if absent."""
    if isinstance(call, Mapping):
        return next((found for name in READ if (found := call.get(name)) is not None), None)
    return next((part for part in call if isinstance(part, Cache)), None)


@cache
def warn_if_untested(version: str = transformers.__version__) -> None:
    """Warn, once in a process, of a transformers release that is newer than the tested ones."""
    if Version(version).release[:2] > TESTED.release:
        warn(
            f"transformers {version} is newer than {TESTED}, the newest that evocomp was tested with: "
            f"`evocomp doctor` checks whether compression works with it",
            stacklevel=2,
        )


class Key:
    """Identifies one prefill in all caches that come from it."""


@dataclass(frozen=True, eq=False)
class Mark:
    """The prefill data attached to a cache. Copies of the cache share it."""

    key: Key
    lengths: tuple[int, ...]  # of each layer's cache after the prefill
    rows: Tensor | None  # [B] the prefill's sample of each row; None = there is one sample

    def __deepcopy__(self, memo: Any) -> Mark:
        return self


MARK = "_evocomp"  # the attribute of a cache


def mark(cache: Any, key: Key, rows: Tensor) -> None:
    """Mark `cache` as filled by the prefill `key`, with samples `rows` [B]; copies keep the mark."""
    several = len(rows) > 1
    setattr(cache, MARK, Mark(key, _lengths(cache), rows if several else None))
    if several:  # rows are tracked by overriding the cache's methods
        kind: Any = type(cache)
        cache.__class__ = _following(kind)


def mark_of(cache: Any) -> Mark | None:
    """The mark of this cache, or of the one that it was copied from; None without one."""
    return getattr(cache, MARK, None)


def grown(cache: Any, mark: Mark) -> int:
    """The number of tokens that the cache holds after its prefill; negative if it was cropped below it.

    ValueError if its layers disagree.
    """
    counts = {now - then for now, then in zip(_lengths(cache), mark.lengths, strict=True)}
    if len(counts) > 1:
        raise ValueError(
            "the layers of this cache were cut to one length, but compression left them at several: crop it "
            "by a negative number, which removes as many tokens from each"
        )
    return counts.pop()


def _lengths(cache: Any) -> tuple[int, ...]:
    if getattr(cache, "is_compileable", False):  # one length for all layers, read from the device
        return (int(cache.get_seq_length()),)
    counted = [number for number, layer in enumerate(cache.layers) if hasattr(layer, "keys")]  # not recurrent
    return tuple(int(cache.get_seq_length(layer)) for layer in counted)


class _Following:
    """The methods that move a cache's rows, for a subclass of the cache's own class."""

    def reorder_cache(self: Any, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._move(lambda rows: rows[beam_idx.to(rows.device)])

    def batch_select_indices(self: Any, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._move(lambda rows: rows[indices.to(rows.device)])

    def batch_repeat_interleave(self: Any, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._move(lambda rows: rows.repeat_interleave(repeats))

    def _move(self: Any, moved: Callable[[Tensor], Tensor]) -> None:
        own = mark_of(self)
        if own is not None and own.rows is not None:
            setattr(self, MARK, replace(own, rows=moved(own.rows)))


@cache
def _following(kind: type) -> type:
    return kind if issubclass(kind, _Following) else type(kind.__name__, (_Following, kind), {})
