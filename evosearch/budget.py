"""The budget of a search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The limits of a search, which stops at the first one reached; at least one must be given.

    `evaluations` is exact: the last batch is truncated if necessary. `iterations` are batches after the first
    one, as the paper counts them. `seconds` is checked between batches and includes the time before an
    interruption, if the search was resumed.
    """

    evaluations: int | None = None
    iterations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.iterations is None and self.seconds is None:
            raise ValueError("a budget needs a number of evaluations, iterations or seconds")
        for name, least in (("evaluations", 1), ("iterations", 0), ("seconds", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"budget of {value} {name}: choose {least} or more")

    def spent(self, evaluations: int, iterations: int, seconds: float) -> str | None:
        """Return a message about the limit that is reached, or None."""
        for name, used in (("evaluations", evaluations), ("iterations", iterations), ("seconds", seconds)):
            limit = getattr(self, name)
            if limit is not None and used >= limit:
                return f"budget of {limit} {name} spent"
        return None
