"""Everything that modifies a live model: `attach` applies a method to it inside a `with` block."""

from typing import TYPE_CHECKING

from compress.lazy import lazy

if TYPE_CHECKING:
    from compress.attach.prefill import Record as Record
    from compress.attach.session import Trace as Trace
    from compress.attach.session import attach as attach

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "prefill": ("Record",),
        "session": ("Trace", "attach"),
    },
)
