"""Equal budgets: what `keep` tokens mean, and how many a method may keep at its last stage to spend as much.

The yardstick is always the same: a method that costs nothing and leaves `keep` visual tokens before the
decoder. Another method is on an equal footing when it spends what the yardstick spends, counted in

- `tokens`: visual tokens after the last stage ("nominal" in papers);
- `equivalent`: visual tokens entering a decoder layer, mean over layers (what most tables call their budget);
- `flops`: prefill of the decoder, the method's own choosing included.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bench.evaluation.ledger import Ledger, Shape
from compress.base import Selector, entering, plan
from compress.keep import Keep, Ratio, count_of, limit_of

Match = Literal["tokens", "equivalent", "flops"]
MATCHES: tuple[Match, ...] = get_args(Match)
MEANING: dict[Match, str] = {
    "tokens": "visual tokens left after a method's last stage",
    "equivalent": "visual tokens entering a decoder layer, mean over layers",
    "flops": "prefill FLOPs, own choosing included, of a method that leaves so many before the decoder",
}


@dataclass(frozen=True)
class Footing:
    """What two methods have to have in common: `tokens` visual tokens at first, prompts of `text` others."""

    match: Match
    tokens: int
    shape: Shape
    text: float = 0.0  # only FLOPs depend on it

    def cost(self, counts: Sequence[float]) -> float:
        """What is spent when `counts` visual tokens enter the decoder's layers."""
        ledger = Ledger(self.shape, counts, self.text)
        if self.match == "tokens":
            return counts[-1]
        return ledger.average if self.match == "equivalent" else ledger.prefill_flops

    def target(self, keep: float) -> float:
        return self.cost([keep] * self.shape.layers)

    def solve(self, selector: Selector, keep: Keep, selection: float = 0.0) -> int:
        """How many tokens `selector` keeps at its last stage, so that its cost is nearest to the yardstick's.

        `selection` are FLOPs of its own choosing, which count where FLOPs are matched. A method that never
        acts, or is asked for all tokens, has nothing to solve. ValueError names the nearest budget for one
        that is out of reach.
        """
        layers, count = self.shape.layers, count_of(keep, self.tokens)
        if not plan(selector, self.tokens, count, layers, "nominal") or selector.adaptive:
            return count
        own = selection if self.match == "flops" else 0.0

        def spent(last: int) -> float:
            schedule = plan(selector, self.tokens, last, layers, "nominal")
            return self.cost(entering(schedule, self.tokens, layers)) + own

        target = self.target(count)
        if spent(1) > self.target(limit_of(keep, self.tokens)):
            raise ValueError(self._out_of_reach(selector, keep, spent(1)))
        above = bisect_left(range(1, self.tokens), target, key=spent) + 1
        return min((max(above - 1, 1), above), key=lambda last: abs(spent(last) - target))

    def _out_of_reach(self, selector: Selector, keep: Keep, least: float) -> str:
        budgets = range(count_of(keep, self.tokens) + 1, self.tokens + 1)
        nearest = next((each for each in budgets if self.target(each) >= least), None)
        said = f"keep={keep} is out of reach for {type(selector).__name__} under --match {self.match}"
        said += f" on {self.tokens} visual tokens"
        if nearest is None:
            return f"{said}: it spends more than the untouched model at any budget"
        layers = self.shape.layers
        first = entering(plan(selector, self.tokens, 1, layers, "nominal"), self.tokens, layers)[0]
        why = "its choosing alone costs more"
        if first > 1:
            why = f"up to {first} enter the layers before its last stage, whatever is left after it"
            why += " (--match tokens counts only that)"
        share = f" ({100 * nearest / self.tokens:.1f}%)" if isinstance(keep, Ratio) else ""
        return f"{said}: {why}; the nearest budget is {nearest}{share}"
