"""Converts a budget into a schedule: the number of visual tokens that a method keeps at each depth.

All budgets use the same reference: a method that costs nothing and keeps `keep` visual tokens before the
decoder. `Match` names the cost that another method shares with this reference:

- `tokens`: visual tokens after the last stage (often called nominal in papers);
- `equivalent`: visual tokens entering a decoder layer, mean over layers (the budget of most tables);
- `flops`: FLOPs of the decoder's prefill, including the method's own selection.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args

from compress.base import LAYERS, VISION, ClsSelector, Selector, Traits
from compress.keep import Keep, Ratio, count_of, limit_of, read_keep

Match = Literal["tokens", "equivalent", "flops"]
MATCHES: tuple[Match, ...] = get_args(Match)
Cost = Callable[[Sequence[float]], float]  # visual tokens entering each decoder layer -> their cost


def entering(schedule: Mapping[int, int], tokens: int, layers: int) -> list[int]:
    """Visual tokens entering each decoder layer under a schedule, with `tokens` at the start."""
    counts, current = [], schedule.get(VISION, tokens)
    for layer in range(layers):
        current = schedule.get(layer, current)
        counts.append(current)
    return counts


def check_match(match: str) -> None:
    """ValueError for a `match` that needs a prompt to compute the schedule."""
    if match == "flops":
        raise ValueError(
            "match='flops': FLOPs depend on the prompt and on what the selection computes; choose "
            "'equivalent' or 'tokens' here, or let `evaluate` or `compare` solve for FLOPs"
        )
    if match not in MATCHES:
        raise ValueError(f"match={match!r}: choose 'equivalent' or 'tokens'")


def plan(
    selector: Selector, tokens: int, keep: Keep, layers: int, match: Match = "equivalent"
) -> dict[int, int]:
    """The schedule with which `selector` spends `keep` visual tokens on an image that has `tokens`.

    With "equivalent", the mean over layers of the tokens that enter a layer is `keep`, to the nearest whole
    token. Counts may lie between two of the selector's schedules. The result is exact for methods that act
    before the decoder; the ledger records the difference for others. With "tokens", `keep` tokens remain
    after the last stage. "flops" needs a prompt and a model, see `solve`.

    An empty schedule means no compression: all tokens are kept, or the method never acts. An adaptive method
    gets counts of zero, whatever the budget. A ratio is a share of `tokens`; an image too small for it gets
    the nearest count that the method can reach, at most one token more. ValueError if the budget is out of
    range or out of reach.
    """
    check_match(match)
    if selector.adaptive:
        return _checked(selector, tokens, 0, layers)
    keep = read_keep(keep)
    count = count_of(keep, tokens)
    if count > tokens:
        raise ValueError(f"keep={count}: choose between 1 and the {tokens} visual tokens of this image")
    schedule = _checked(selector, tokens, count, layers)
    if count == tokens or not schedule:
        return {}
    if match == "tokens":
        return schedule
    lasts = _around(selector, tokens, keep, layers, match, _mean)
    lower, upper = (_checked(selector, tokens, last, layers) for last in lasts)
    return min(
        _between(lower, upper, tokens),
        key=lambda schedule: abs(_mean(entering(schedule, tokens, layers)) - count),
    )


def solve(
    selector: Selector, tokens: int, keep: Keep, layers: int, match: Match, flops: Cost | None = None,
    own: float = 0.0,
) -> int:  # fmt: skip
    """The number of tokens after the last stage at which the cost of `selector` is nearest to the target.

    The target is the cost of the reference. `flops` returns the FLOPs of a prefill, and `own` is the FLOPs of
    the method's own selection; only "flops" uses them. If the method never acts or keeps all tokens, `keep`
    is returned as a count. ValueError for a budget out of reach; the message names the nearest budget within
    reach.
    """
    count = count_of(keep, tokens)
    if not plan(selector, tokens, count, layers, "tokens") or selector.adaptive:
        return count
    if match == "flops":
        assert flops is not None, "FLOPs are matched by a function that counts them"
        cost = flops
    else:
        cost, own = (_mean if match == "equivalent" else _last), 0.0
    target = cost([count] * layers)

    def gap(last: int) -> float:
        schedule = plan(selector, tokens, last, layers, "tokens")
        return abs(cost(entering(schedule, tokens, layers)) + own - target)

    return min(_around(selector, tokens, keep, layers, match, cost, own), key=gap)


def choices_of(selector: Selector, model: Traits) -> tuple[str, ...]:
    """All choices made for a method on such a model where its paper and official code define none."""
    ours, papers = (sorted(selector.schedule(model.tokens, 1, n)) for n in (model.layers, LAYERS))
    found = []
    if ours != papers:
        here, there = (", ".join(str(depth) for depth in depths if depth > 0) for depths in (ours, papers))
        found.append(f"acts before decoder layers {here} of {model.layers}, the paper's {there} of {LAYERS}")
    if selector.cls == "received" and isinstance(selector, ClsSelector):
        found.append("what tokens receive from all tokens of their image stands in for the attention of CLS")
    if model.tiles and VISION not in ours and ours:
        also = ", newlines count as visual tokens" if model.newlines else ""
        found.append(f"all tiles share the budget{also}")
    if model.newlines and VISION in ours:
        found.append("newlines do not go on")
    if model.mrope and selector.positions == "compact" and VISION not in ours:
        found.append("positions stay original: those of several axes cannot be renumbered")
    return (*found, *selector.choices(model))


def _mean(counts: Sequence[float]) -> float:
    return sum(counts) / len(counts)


def _last(counts: Sequence[float]) -> float:
    return counts[-1]


def _around(
    selector: Selector, tokens: int, keep: Keep, layers: int, match: Match, cost: Cost, own: float = 0.0
) -> tuple[int, int]:
    """The two neighbouring counts after the last stage whose costs enclose the cost of `keep` tokens."""

    def spent(last: int) -> float:
        return cost(entering(_checked(selector, tokens, last, layers), tokens, layers)) + own

    def target(kept: float) -> float:
        return cost([kept] * layers)

    least = spent(1)
    if least > target(limit_of(keep, tokens)):
        budgets = range(count_of(keep, tokens) + 1, tokens + 1)
        nearest = next((each for each in budgets if target(each) >= least), None)
        first = entering(_checked(selector, tokens, 1, layers), tokens, layers)[0]
        name = type(selector).__name__
        raise ValueError(_out_of_reach(name, tokens, keep, match, first, nearest))
    above = bisect_left(range(1, tokens), target(count_of(keep, tokens)), key=spent) + 1
    return max(above - 1, 1), above


def _out_of_reach(name: str, tokens: int, keep: Keep, match: Match, first: int, nearest: int | None) -> str:
    said = f"keep={keep} is out of reach for {name} with match={match} on {tokens} visual tokens"
    if nearest is None:
        return f"{said}: it spends more than the untouched model at any budget"
    why = "its own selection alone costs more"
    if first > 1:
        why = f"up to {first} enter the layers before its last stage, whatever is left after it"
        why += " (match=tokens counts only what is left)"
    share = f" ({100 * nearest / tokens:.1f}%)" if isinstance(keep, Ratio) else ""
    return f"{said}: {why}; the nearest budget is {nearest}{share}"


def _between(lower: Mapping[int, int], upper: Mapping[int, int], tokens: int) -> Iterator[dict[int, int]]:
    """Yield the schedules from one to the other; a step changes no count by more than one token.

    One more token after the last stage may mean several more after the first. The tower's count changes last
    and in a single step, because it may have to be one of whole windows.
    """
    ways = {
        depth: (_left(lower, depth, tokens), _left(upper, depth, tokens))
        for depth in sorted({*lower, *upper})
    }
    steps = max(1, *(more - few for few, more in ways.values()))
    for step in range(steps + 1):
        counts = {depth: few + (more - few) * step // steps for depth, (few, more) in ways.items()}
        if VISION in ways and step < steps:
            counts[VISION] = ways[VISION][0]
        yield _dropping(counts, tokens)


def _left(schedule: Mapping[int, int], depth: int, tokens: int) -> int:
    """Tokens that remain at a depth."""
    return min((count for stage, count in schedule.items() if stage <= depth), default=tokens)


def _dropping(counts: Mapping[int, int], tokens: int) -> dict[int, int]:
    """Counts by ascending depth, without stages that drop nothing."""
    schedule, left = {}, tokens
    for depth, count in counts.items():
        if count < left:
            schedule[depth] = left = count
    return schedule


def check_depths(selector: Selector, tokens: int, keep: int, layers: int) -> dict[int, int]:
    """The selector's own schedule by ascending depth; ValueError for a layer that does not exist."""
    counts = dict(sorted(selector.schedule(tokens, keep, layers).items()))
    for depth in counts:
        if not VISION <= depth < layers:
            raise ValueError(
                f"{type(selector).__name__} acts at depth {depth}: choose -1 (tower), 0 (input) "
                f"or a decoder layer up to {layers - 1}"
            )
    return counts


def _checked(selector: Selector, tokens: int, keep: int, layers: int) -> dict[int, int]:
    counts = check_depths(selector, tokens, keep, layers)
    return dict.fromkeys(counts, 0) if selector.adaptive else _dropping(counts, tokens)
