"""The contract between methods and models: a method sees a `View` of one sample and returns a `Selection`.

A method never decides how many tokens stay: `compress.budget` turns the budget into a schedule, and `attach`
applies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Self

from torch import Tensor

VISION, INPUT = -1, 0  # tower output before the projector; decoder input. Depth k > 0: before decoder layer k
LAYERS = 32  # of the decoders that papers give their layers for
Positions = Literal["original", "compact"]


def _missing(*_: object, **__: object) -> NoReturn:
    raise ValueError("this signal does not exist at this depth of this model")


@dataclass(frozen=True)
class View:
    """All that a method may look at: one sample with N visual and T text tokens, seen at one depth.

    The callables compute nothing until they are called. Indices and rows count from 0 inside the sample;
    padding is never visible. `cls`, `scores` and `keys` serve the tower layers that the selector lists in
    `tower_layers`, at any depth, for the view's own tokens; a token that stands for the whole image has CLS's
    values. In a tower without CLS `received` and `keys` serve, in place of each layer, the one nearest to it
    in which all patches of an image attend to each other; a token of several patches has their mean.
    `attention`, `decoder_keys`, `decoder_values` and `unrotated` serve the layers depth - 1 and depth.
    """

    depth: int
    hidden: Tensor  # [N, C] visual tokens at this depth: what gets dropped or merged
    visual: Tensor  # [N, D] the same tokens' aligned embeddings, at any depth >= 0; [0, D] at VISION
    text: Tensor  # [T, D] embeddings of the prompt's other tokens, in order; never the answer
    index: Tensor  # [N] which visual token of the untouched sequence this is; -1 = the whole image
    grid: tuple[int, int]  # rows x columns of the untouched visual tokens, of one frame in a video
    before: int = 0  # how many of the T text tokens precede the image
    inputs: Tensor | None = None  # [M, D] embeddings of all visual tokens that left the tower; None at VISION
    context: Tensor | None = None  # [T, C] hidden states of the other tokens at this depth; None at VISION
    crop: Tensor | None = None  # [N] image tile, 0 = thumbnail; None = there is one image only
    frames: int = 1  # of the untouched video, in time: a token of several frames counts as one; 1 for images
    frame: Tensor | None = None  # [N] in 0 .. frames - 1, -1 = a newline; None = an image, not a video
    cls_token: Tensor | None = None  # [P, C] the tower's CLS feature of each tile, at VISION
    cls: Callable[[float], Tensor] = (
        _missing  # tower layer -> [H, N] attention of CLS to the patches, softmax with CLS
    )
    scores: Callable[[float], Tensor] = (
        _missing  # tower layer -> [H, P + N] scaled scores of CLS, before softmax: of each tile's for itself,
        # then for the patches of its tile
    )
    keys: Callable[[float], Tensor] = _missing  # tower layer -> [N, H, d] keys of the patches, unscaled
    queries: Callable[[float], Tensor] = _missing  # the same of their queries; only in towers without CLS
    received: Callable[[float], Tensor] = _missing  # tower layer -> [H, N] attention that each patch gets
    # from all patches of its image or frame, the mean over them; only in towers without CLS
    attention: Callable[[int, Sequence[int] | Tensor | None], Tensor] = _missing
    # decoder layer, text rows [R], negative from the end -> [H, R, N], softmax over all; None = rows of all
    # tokens, visual ones included, in the order of the sequence
    decoder_keys: Callable[[int], tuple[Tensor, Tensor]] = _missing
    # decoder layer -> [N, H, d] and [T, H, d], visual and other tokens' keys, rotated; H are the key heads
    decoder_values: Callable[[int], tuple[Tensor, Tensor]] = _missing  # the same of their values
    unrotated: Callable[[int], tuple[Tensor, Tensor, Tensor]] = _missing
    # decoder layer -> queries [M, H, d] and keys [M, G, d] of all tokens up to the last visual one, before
    # any rotation, scaled so that their products are logits, and [N] which of the M rows are visual
    norm: Callable[[Tensor], Tensor] = _missing  # the decoder's final norm
    projected: Callable[[], Tensor] = _missing  # -> [N, D] what the projector makes of `hidden`, at VISION
    clip: Callable[[bool], tuple[Tensor, Tensor]] = _missing
    # whether a long question is cut -> [N, P] and [M, P], patches and question in CLIP's joint space, at
    # VISION, for methods with `reads_clip`; M is 1 unless the question is longer than CLIP's text tower reads
    probe: Callable[[], tuple[Tensor, Tensor]] = _missing
    # -> [frames, C] what the tower's pooling head makes of each frame, and [N] its attention to the tokens,
    # softmax; only in towers that have such a head
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

    `index` [K] are rows of the view: unique, and ascending unless the method says with `reordered` that the
    decoder reads them in another order, or gives `tokens`. `tokens` [K, C] replaces the values, for methods
    that merge: row i then stands at the place of index[i], its representative; -1 is a token that stands for
    the whole image (it takes the place of the first visual token when positions are original). `into` [N]
    says which of the K each of the view's tokens joined with equal weight, -1 = none; what a family adds to
    visual tokens between layers (DeepStack) is merged alike.
    """

    index: Tensor
    tokens: Tensor | None = None
    into: Tensor | None = None
    reordered: bool = False


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
    values: Callable[[], Tensor] = _missing  # -> [1 + N, H, d] its values, that of CLS first
    cls: Callable[[], Tensor] = _missing  # -> [H, N] attention of CLS to the patches, softmax with CLS
    left: int = 0  # layers behind this one in which the method merges
    carried: Tensor | None = None  # [N, ...] `Merge.carry` of the layer before in which it merged


@dataclass(frozen=True)
class Merge:
    """What becomes of N tokens: token i joins `into[i]`, whose place is that of row `index[k]`.

    Values are means weighted by size, and sizes add up; the contract computes both.
    """

    index: Tensor  # [K] a row that joins k, in the order in which the tokens go on
    into: Tensor  # [N] in 0 .. K - 1, every one at least once; -1 = the token is dropped
    carry: Tensor | None = None  # [K, ...] what the method wants to know of these tokens when it merges again


class Selector(ABC):
    """A compression method. Subclasses are dataclasses whose fields are the hyper-parameters of the paper."""

    depth: int = INPUT
    positions: Positions = "original"  # "compact": the decoder's positions are renumbered without holes
    adaptive: bool = False  # its own thresholds say how many tokens stay: counts, and `keep`, are 0
    draws: int = 1  # how often an evaluation runs it: more than once if it draws at random
    reads_text: bool = False  # whether the question says what stays
    video: bool = False  # whether it chooses between the frames of a video, and refuses images
    cls: Literal["own", "received"] = "own"  # whose attention it reads in the tower, see `ClsSelector`
    attends_by_size: bool = False  # whether decoder layers attend to a token by how many joined it: `into`

    @property
    def tower_layers(self) -> tuple[float, ...]:
        """Tower layers whose `cls`, `scores` and `keys` are read, see `tower_layer`."""
        return ()

    @property
    def reads_clip(self) -> str | None:
        """Folder or hub name of the CLIP whose joint space is read, "" = the model's own, None = none."""
        return None

    def load(self) -> Self:
        """The same method, what it needs read from disk; ValueError where that is missing."""
        return self

    def drawn(self, number: int) -> Selector:
        """The method with other random numbers for each `number` from 0 on; itself if it uses none."""
        return self

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """depth -> visual tokens left from there on, with `keep` after the last stage; not above `tokens`.

        Overridden by methods that act several times or at a depth relative to the decoder's; counts must not
        fall when `keep` rises, so that `plan` can solve for a mean over layers.
        """
        return {self.depth: keep}

    @abstractmethod
    def select(self, view: View, keep: int) -> Selection:
        """Choose `keep` of the N tokens, 1 <= keep < N."""

    def choices(self, model: Traits) -> tuple[str, ...]:
        """What it does on such a model where paper and official code say nothing, a phrase each.

        What all methods have in common is not among them, see `compress.budget.choices_of`.
        """
        return ()

    def cut_caches_from(self, layers: int) -> int | None:
        """First decoder layer whose cache is cut, after the prefill, to the tokens that passed all stages.

        None: every layer keeps what entered it.
        """
        return None


class Scorer(Selector):
    """A method that gives every token a score and keeps the best."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """[N], higher stays."""

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(self.score(view), keep))


@dataclass
class ClsSelector(Selector):
    """A method that reads the attention of CLS in the vision tower.

    `cls="received"` is for towers without CLS: what stands in for the attention of CLS is the attention that
    a token receives from all tokens of its image. The method then acts on the projected tokens, at the
    decoder's input.
    """

    cls: Literal["own", "received"] = field(default="own", kw_only=True)
    depth = VISION
    positions = "compact"

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION if self.cls == "own" else INPUT: keep}

    def attended(self, view: View, layer: float) -> Tensor:
        """Attention [H, N] of CLS in a tower layer, or what stands in for it."""
        if self.cls == "received":
            return view.received(layer)
        if view.depth == VISION:
            view.need_cls(type(self).__name__)
        return view.cls(layer)


class TowerSelector(Selector):
    """A method that shortens the sequence inside the vision tower, before its tokens are chosen.

    It scales the image down (`resolution`) or merges patches layer by layer (`tower`, `merge`). Its schedule
    has a count at VISION; where either of these reaches it, `select` is not called there.
    """

    depth: int = VISION
    merge_after: Literal["attention", "block"] = "attention"  # where in a tower layer `merge` acts
    proportional: bool = False  # whether later tower layers attend to a merged token by its size
    image_decides: bool = False  # whether `merge` may leave more than it is asked for, but in the last layer

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        """Rows x columns of patches that the tower sees: below `grid`, the image is scaled down before it.

        Their product is then `keep`.
        """
        return grid

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """Tower layer -> patches left after it, for methods that merge inside the tower; `keep` at the end.

        `layers` are those whose output is used.
        """
        return {}

    def merge(self, view: TowerView, keep: int) -> Merge:
        """Merge the N tokens of a tower layer into `keep`, 1 <= keep < N."""
        raise NotImplementedError


def top_k(scores: Tensor, keep: int) -> Tensor:
    """Indices [keep] of the largest of `scores` [N], ascending; among equals the lower index wins."""
    return scores.sort(descending=True, stable=True).indices[:keep].sort().values


def tower_layer(layer: float, layers: int) -> int:
    """The number of a tower layer, of `layers`: as an int, from the end if negative, or as a share below 1.

    ValueError if there is no such layer.
    """
    if isinstance(layer, float) and 0 <= layer < 1:
        return min(round(layer * layers), layers - 1)
    if isinstance(layer, float) or not -layers <= layer < layers:
        raise ValueError(f"tower layer {layer}: the tower has {layers}")
    return layer % layers


def scaled_layer(layer: int, layers: int, paper: int = LAYERS) -> int:
    """The decoder layer, of `layers`, that corresponds to the paper's; at least 1 and below `layers`.

    ValueError for a layer that the paper's decoder does not have.
    """
    if not 0 <= layer < paper:
        raise ValueError(f"layer {layer}: choose one from 0 to {paper - 1}, as of a decoder with {paper}")
    return min(max(1, round(layer * layers / paper)), layers - 1)
