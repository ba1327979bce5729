"""The cache of keys and values, by the name that the installed transformers gives it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from warnings import warn

import transformers
from packaging.version import Version
from transformers import Cache
from transformers.masking_utils import create_causal_mask

NAMES = ("cache", "past_key_values")  # in calls and outputs, the newest first: 5.24 renamed it
TESTED = Version("5.24")  # the newest transformers that the tests have passed on


def name_in(function: Any) -> str:
    """The argument by which a function of transformers takes the cache. ValueError if no known name fits."""
    known = [name for name in NAMES if name in inspect.signature(function).parameters]
    if not known:
        raise ValueError(
            f"transformers {transformers.__version__} names the cache neither {' nor '.join(NAMES)}: "
            f"install transformers {TESTED}"
        )
    return known[0]


CACHE = name_in(create_causal_mask)  # its name in this release
READ = NAMES[NAMES.index(CACHE) :]  # names that this release understands


def cache_in(call: Mapping[str, Any] | Sequence[Any]) -> Any:
    """The cache among the arguments of a call by name, or in a model's output, a tuple too; None without."""
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
