"""How much a search may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """When to stop, whichever limit is reached first; at least one must be given.

    `evaluations` is exact: a batch is cut rather than one more candidate evaluated. `iterations` are batches
    after the first one, as the paper counts them. `seconds` is looked at between batches and includes the
    time before a resumed interruption.
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
        """Which limit is reached, in words; None while there is some left."""
        for name, used in (("evaluations", evaluations), ("iterations", iterations), ("seconds", seconds)):
            limit = getattr(self, name)
            if limit is not None and used >= limit:
                return f"budget of {limit} {name} spent"
        return None
