"""The contract between methods and models: a method sees a `View` of one sample and returns a `Selection`.

How many tokens stay is never the method's business: `plan` turns the asked budget into a schedule, `attach`
applies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NoReturn, Self

from torch import Tensor

from compress.keep import Keep, count_of, limit_of, read_keep

VISION, INPUT = -1, 0  # tower output before the projector; decoder input. Depth k > 0: before decoder layer k
LAYERS = 32  # of the decoders that papers give their layers for
Accounting = Literal["average", "nominal"]
Positions = Literal["original", "compact"]


def _missing(*_: object, **__: object) -> NoReturn:
    raise ValueError("this signal does not exist at this depth of this model")


@dataclass(frozen=True)
class View:
    """All that a method may look at: one sample with N visual and T text tokens, seen at one depth.

    The callables compute nothing until they are called. Indices and rows count from 0 inside the sample;
    padding is never visible. `cls`, `scores` and `keys` serve the tower layers that the selector lists in
    `tower_layers`, at any depth, for the view's own tokens; a token that stands for the whole image has CLS's
    values. `attention` and `decoder_keys` serve the layers depth - 1 and depth.
    """

    depth: int
    hidden: Tensor  # [N, C] visual tokens at this depth: what gets dropped or merged
    visual: Tensor  # [N, D] the same tokens' aligned embeddings, at any depth >= 0; [0, D] at VISION
    text: Tensor  # [T, D] embeddings of the prompt's other tokens, in order; never the answer
    index: Tensor  # [N] which visual token of the untouched sequence this is; -1 = the whole image
    grid: tuple[int, int]  # rows x columns of the untouched visual tokens
    before: int = 0  # how many of the T text tokens precede the image
    inputs: Tensor | None = None  # [M, D] embeddings of all visual tokens that left the tower; None at VISION
    context: Tensor | None = None  # [T, C] hidden states of the other tokens at this depth; None at VISION
    crop: Tensor | None = None  # [N] image tile, 0 = thumbnail; None = there is one image only
    cls_token: Tensor | None = None  # [P, C] the tower's CLS feature of each tile, at VISION
    cls: Callable[[int], Tensor] = (
        _missing  # tower layer -> [H, N] attention of CLS to the patches, softmax with CLS
    )
    scores: Callable[[int], Tensor] = (
        _missing  # tower layer -> [H, P + N] scaled scores of CLS, before softmax: of each tile's for itself,
        # then for the patches of its tile
    )
    keys: Callable[[int], Tensor] = _missing  # tower layer -> [N, H, d] keys of the patches, unscaled
    attention: Callable[[int, Sequence[int] | Tensor | None], Tensor] = _missing
    # decoder layer, text rows [R], negative from the end -> [H, R, N], softmax over all; None = rows of all
    # tokens, visual ones included, in the order of the sequence
    decoder_keys: Callable[[int], tuple[Tensor, Tensor]] = _missing
    # decoder layer -> [N, H, d] and [T, H, d], visual and other tokens' keys, rotated; H are the key heads
    norm: Callable[[Tensor], Tensor] = _missing  # the decoder's final norm
    seed: Callable[[], int] = lambda: (
        0
    )  # 64 bits drawn from pixels and prompt: the same alone and in any batch

    def need_cls(self, method: str) -> Tensor:
        """`cls_token`; ValueError, in which `method` is named, for a tower without CLS."""
        if self.cls_token is None:
            raise ValueError(f"{method} needs a vision tower with a CLS token")
        return self.cls_token


@dataclass(frozen=True)
class Selection:
    """The tokens that go on, in the order in which the decoder reads them.

    `index` [K] are rows of the view: unique, ascending unless `tokens` are given. `tokens` [K, C] replaces
    the values, for methods that merge: row i then stands at the place of index[i], its representative; -1 is
    a token that stands for the whole image (it takes the place of the first visual token when positions are
    original).
    """

    index: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True)
class Traits:
    """What sets a model apart for a method, before any sample is seen."""

    layers: int  # of the decoder
    width: int  # of its embeddings
    tokens: int  # visual tokens of an image, the most where images differ
    tiles: bool = False  # an image is a thumbnail and crops
    newlines: bool = False  # a token that no patch gave ends every row of the stitched crops
    mrope: bool = False  # positions have several axes


@dataclass(frozen=True)
class TowerView:
    """One image between two halves of the vision tower: N patches, or what they were merged into.

    CLS is not among them: it never merges and stays in front.
    """

    layer: int
    hidden: Tensor  # [N, C]
    size: Tensor  # [N] how many patches each one stands for
    index: Tensor  # [N] which patch of the untouched image each one is, or represents
    grid: tuple[int, int]  # rows x columns of the untouched patches
    keys: Callable[[], Tensor] = _missing  # -> [N, H, d] keys of this layer's attention, unscaled


@dataclass(frozen=True)
class Merge:
    """A partition of N tokens into K: token i joins `into[i]`, whose place is that of row `index[k]`.

    Values are means weighted by size, and sizes add up; the contract computes both.
    """

    index: Tensor  # [K] a row that joins k, in the order in which the tokens go on
    into: Tensor  # [N] in 0 .. K - 1, every one at least once


class Selector(ABC):
    """A compression method. Subclasses are dataclasses whose fields are the hyper-parameters of the paper."""

    depth: int = INPUT
    positions: Positions = "original"  # "compact": the decoder's positions are renumbered without holes
    adaptive: bool = False  # its own thresholds say how many tokens stay: counts, and `keep`, are 0
    draws: int = 1  # how often an evaluation runs it: more than once if it draws at random
    merge_after: Literal["attention", "block"] = "attention"  # where in a tower layer `merge` acts
    proportional: bool = False  # whether later tower layers attend to a merged token by its size

    @property
    def tower_layers(self) -> tuple[int, ...]:
        """Tower layers whose `cls`, `scores` and `keys` are read."""
        return ()

    def load(self) -> Self:
        """The same method, what it needs read from disk; ValueError where that is missing."""
        return self

    def drawn(self, number: int) -> Selector:
        """The method with other random numbers for each `number` from 0 on; itself if it uses none."""
        return self

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """depth -> visual tokens left from there on, with `keep` after the last stage; not above `tokens`.

        Overridden by methods that act several times or at a depth relative to the decoder's; counts must not
        fall when `keep` rises, so that `plan` can solve for an average.
        """
        return {self.depth: keep}

    @abstractmethod
    def select(self, view: View, keep: int) -> Selection:
        """Choose `keep` of the N tokens, 1 <= keep < N."""

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        """Rows x columns of patches that the tower sees: below `grid`, the image is scaled down before it.

        Their product is then `keep`, and `select` is not asked at VISION.
        """
        return grid

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """Tower layer -> patches left after it, for methods that merge inside the tower; `keep` at the end.

        `layers` are those whose output is used. `select` is not asked at VISION then.
        """
        return {}

    def merge(self, view: TowerView, keep: int) -> Merge:
        """Merge the N tokens of a tower layer into `keep`, 1 <= keep < N."""
        raise NotImplementedError

    def cut_caches_from(self, layers: int) -> int | None:
        """First decoder layer whose cache is cut, after the prefill, to the tokens that passed all stages.

        None: every layer keeps what entered it.
        """
        return None

    def choices(self, model: Traits) -> tuple[str, ...]:
        """What it does on such a model where paper and official code say nothing, a phrase each.

        What all methods have in common is not among them, see `choices_of`.
        """
        return ()


class Scorer(Selector):
    """A method that gives every token a score and keeps the best."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """[N], higher stays."""

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(self.score(view), keep))


def top_k(scores: Tensor, keep: int) -> Tensor:
    """Indices [keep] of the largest of `scores` [N], ascending; among equals the lower index wins."""
    return scores.sort(descending=True, stable=True).indices[:keep].sort().values


def scaled_layer(layer: int, layers: int, paper: int = LAYERS) -> int:
    """The decoder layer, of `layers`, that corresponds to the paper's; at least 1 and below `layers`."""
    return min(max(1, round(layer * layers / paper)), layers - 1)


def entering(schedule: Mapping[int, int], tokens: int, layers: int) -> list[int]:
    """Visual tokens entering each decoder layer under a schedule, with `tokens` at the start."""
    counts, current = [], schedule.get(VISION, tokens)
    for layer in range(layers):
        current = schedule.get(layer, current)
        counts.append(current)
    return counts


def plan(
    selector: Selector, tokens: int, keep: Keep, layers: int, accounting: Accounting = "average"
) -> dict[int, int]:
    """The schedule of `selector` that spends `keep` visual tokens per decoder layer, of an image of `tokens`.

    "average": the mean over layers of tokens entering a layer is `keep` to the nearest whole token, with
    counts between two of the selector's schedules if need be (exact for methods that act before the decoder;
    the difference is in the ledger). "nominal": `keep` are left after the last stage. The empty schedule
    means that nothing is done: all tokens are asked for, or the method never acts. An adaptive method gets
    zeros for counts, whatever the budget. A ratio is one of these `tokens`; an image too small for it gets
    the nearest that the method can do, at most one token more. ValueError if the budget is out of range or
    out of reach.
    """
    if accounting not in ("average", "nominal"):
        raise ValueError(f"accounting={accounting!r}: choose 'average' or 'nominal'")
    if selector.adaptive:
        return _checked(selector, tokens, 0, layers)
    asked = read_keep(keep)
    keep = count_of(asked, tokens)
    if keep > tokens:
        raise ValueError(f"keep={keep}: choose between 1 and the {tokens} visual tokens of this image")
    nominal = _checked(selector, tokens, keep, layers)
    if keep == tokens or not nominal:
        return {}
    if accounting == "nominal":
        return nominal

    def mean(last: int) -> float:
        return sum(entering(_checked(selector, tokens, last, layers), tokens, layers)) / layers

    least = mean(1)
    if least > limit_of(asked, tokens):
        raise ValueError(
            f"keep={asked} is out of reach for {type(selector).__name__}: its first layers see all {tokens} "
            f"visual tokens, so the smallest average over {layers} layers is {ceil(least)}; "
            f"raise keep or use accounting='nominal'"
        )
    above = bisect_left(range(1, tokens + 1), float(keep), key=mean) + 1
    lower, upper = (_checked(selector, tokens, last, layers) for last in (max(above - 1, 1), above))
    return min(
        _between(lower, upper, tokens),
        key=lambda schedule: abs(sum(entering(schedule, tokens, layers)) / layers - keep),
    )


def choices_of(selector: Selector, model: Traits) -> tuple[str, ...]:
    """All that is done on such a model where the method's paper and official code say nothing."""
    ours, papers = (sorted(selector.schedule(model.tokens, 1, n)) for n in (model.layers, LAYERS))
    found = []
    if ours != papers:
        here, there = (", ".join(str(depth) for depth in depths if depth > 0) for depths in (ours, papers))
        found.append(f"acts before decoder layers {here} of {model.layers}, the paper's {there} of {LAYERS}")
    if model.tiles and VISION not in ours and ours:
        also = ", newlines count as visual tokens" if model.newlines else ""
        found.append(f"all tiles share the budget{also}")
    if model.newlines and VISION in ours:
        found.append("newlines do not go on")
    if model.mrope and selector.positions == "compact" and VISION not in ours:
        found.append("positions stay original: those of several axes cannot be renumbered")
    return (*found, *selector.choices(model))


def _between(lower: Mapping[int, int], upper: Mapping[int, int], tokens: int) -> Iterator[dict[int, int]]:
    """Schedules on the way from one to the other; a step moves no count by more than one token.

    One token more after the last stage may be several after the first. The tower's count comes last and at
    once: it may be one of whole windows.
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
    """Tokens left at a depth."""
    return min((count for stage, count in schedule.items() if stage <= depth), default=tokens)


def _dropping(counts: Mapping[int, int], tokens: int) -> dict[int, int]:
    """Counts by ascending depth, without the stages that drop nothing."""
    schedule, left = {}, tokens
    for depth, count in counts.items():
        if count < left:
            schedule[depth] = left = count
    return schedule


def _checked(selector: Selector, tokens: int, keep: int, layers: int) -> dict[int, int]:
    counts = dict(sorted(selector.schedule(tokens, keep, layers).items()))
    for depth in counts:
        if not VISION <= depth < layers:
            raise ValueError(
                f"{type(selector).__name__} acts at depth {depth}: choose -1 (tower), 0 (input) "
                f"or a decoder layer up to {layers - 1}"
            )
    return dict.fromkeys(counts, 0) if selector.adaptive else _dropping(counts, tokens)
