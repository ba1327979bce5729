"""The contract between methods and models: a method sees a `View` of one sample and returns a `Selection`.

How many tokens stay is never the method's business: `plan` turns the asked budget into a schedule, `attach`
applies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, NoReturn

from torch import Tensor

VISION, INPUT = -1, 0  # tower output before the projector; decoder input. Depth k > 0: before decoder layer k
Accounting = Literal["average", "nominal"]
Positions = Literal["original", "compact"]


def _missing(*_: object, **__: object) -> NoReturn:
    raise ValueError("this signal does not exist at this depth of this model")


@dataclass(frozen=True)
class View:
    """All that a method may look at: one sample with N visual and T text tokens, seen at one depth.

    The callables compute nothing until they are called. Indices and rows count from 0 inside the sample;
    padding is never visible. `keys` and `cls` serve the tower layers that the selector lists in
    `tower_layers`.
    """

    depth: int
    hidden: Tensor  # [N, C] visual tokens at this depth: what gets dropped or merged
    visual: Tensor  # [N, D] the same tokens' aligned embeddings, at any depth >= 0; [0, D] at VISION
    text: Tensor  # [T, D] embeddings of the prompt's other tokens, in order; never the answer
    index: Tensor  # [N] which visual token of the untouched sequence this is; -1 = the whole image
    grid: tuple[int, int]  # rows x columns of the untouched visual tokens
    before: int = 0  # how many of the T text tokens precede the image
    crop: Tensor | None = None  # [N] image tile, 0 = thumbnail; None = there is one image only
    cls_token: Tensor | None = None  # [C] the tower's CLS feature, at VISION
    cls: Callable[[int], Tensor] = (
        _missing  # tower layer -> [H, N] attention of CLS to the patches, softmax with CLS
    )
    keys: Callable[[int], Tensor] = _missing  # tower layer -> [N, H, d] keys of the patches, unscaled
    attention: Callable[[int, Sequence[int] | Tensor], Tensor] = _missing
    # decoder layer (depth - 1 or depth), text rows [R], negative from the end -> [H, R, N], softmax over all
    seed: Callable[[], int] = lambda: (
        0
    )  # 64 bits drawn from pixels and prompt: the same alone and in any batch


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


class Selector(ABC):
    """A compression method. Subclasses are dataclasses whose fields are the hyper-parameters of the paper."""

    depth: int = INPUT
    positions: Positions = "original"  # "compact": the decoder's positions are renumbered without holes
    tower_layers: tuple[int, ...] = ()  # tower layers whose `cls` and `keys` are read

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """depth -> visual tokens left from there on, with `keep` after the last stage; not above `tokens`.

        Overridden by methods that act several times or at a depth relative to the decoder's; counts must not
        fall when `keep` rises, so that `plan` can solve for an average.
        """
        return {self.depth: keep}

    @abstractmethod
    def select(self, view: View, keep: int) -> Selection:
        """Choose `keep` of the N tokens, 1 <= keep < N."""


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


def scaled_layer(layer: int, layers: int, paper: int = 32) -> int:
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
    selector: Selector, tokens: int, keep: int, layers: int, accounting: Accounting = "average"
) -> dict[int, int]:
    """The schedule of `selector` that spends `keep` visual tokens per decoder layer.

    "average": the mean over layers of tokens entering a layer is as near to `keep` as whole tokens allow
    (exact for methods that act before the decoder; the difference is in the ledger). "nominal": `keep` are
    left after the last stage. The empty schedule means that nothing is done: all tokens are asked for, or the
    method never acts. ValueError if the budget is out of range or out of reach.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or not 1 <= keep <= tokens:
        raise ValueError(f"keep={keep}: choose between 1 and the {tokens} visual tokens of this image")
    if accounting not in ("average", "nominal"):
        raise ValueError(f"accounting={accounting!r}: choose 'average' or 'nominal'")
    nominal = _checked(selector, tokens, keep, layers)
    if keep == tokens or not nominal:
        return {}
    if accounting == "nominal":
        return nominal

    def mean(last: int) -> float:
        return sum(entering(_checked(selector, tokens, last, layers), tokens, layers)) / layers

    least = mean(1)
    if least > keep:
        raise ValueError(
            f"keep={keep} is out of reach for {type(selector).__name__}: its first layers see all {tokens} "
            f"visual tokens, so the smallest average over {layers} layers is {ceil(least)}; "
            f"raise keep or use accounting='nominal'"
        )
    above = bisect_left(range(1, tokens + 1), float(keep), key=mean) + 1
    last = min((max(above - 1, 1), above), key=lambda count: abs(mean(count) - keep))
    return _checked(selector, tokens, last, layers)


def _checked(selector: Selector, tokens: int, keep: int, layers: int) -> dict[int, int]:
    schedule, left = {}, tokens
    for depth, count in sorted(selector.schedule(tokens, keep, layers).items()):
        if not VISION <= depth < layers:
            raise ValueError(
                f"{type(selector).__name__} acts at depth {depth}: choose -1 (tower), 0 (input) "
                f"or a decoder layer up to {layers - 1}"
            )
        if count < left:  # a stage that drops nothing is none
            schedule[depth] = left = count
    return schedule
