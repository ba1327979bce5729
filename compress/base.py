"""The contract between methods and models: a method gets a `View` of one sample and returns a `Selection`.

A method never decides how many tokens to keep: `compress.budget` turns the budget into a schedule, and
`compress.attach` applies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, Self

from torch import Tensor

VISION, INPUT = -1, 0  # tower output before the projector; decoder input. Depth k > 0: before decoder layer k
LAYERS = 32  # of the decoder to which the layer numbers in papers refer
Positions = Literal["original", "compact"]


def _missing(*_: object, **__: object) -> NoReturn:
    raise ValueError("this signal does not exist at this depth of this model")


@dataclass(frozen=True)
class View:
    """All data that a method may read: one sample with N visual and T text tokens at one depth.

    The callables compute nothing until they are called. Indices and rows count from 0 within the sample;
    padding is never included. `cls`, `scores` and `keys` cover the tower layers that the selector lists in
    `tower_layers`. They work at any depth and return the values of the view's own tokens; a token that
    represents the whole image gets the values of CLS. In a tower without CLS, `received` and `keys` replace
    each layer by the nearest one in which all patches of an image attend to each other; a token made of
    several patches gets their mean. `attention`, `decoder_keys`, `decoder_values` and `unrotated` cover the
    decoder layers depth - 1 and depth.
    """

    depth: int
    hidden: Tensor  # [N, C] visual tokens at this depth, which the method prunes or merges
    visual: Tensor  # [N, D] projected embeddings of the same tokens, at any depth >= 0; [0, D] at VISION
    text: Tensor  # [T, D] embeddings of the prompt's other tokens, in order, without the answer
    index: Tensor  # [N] index of each token among the uncompressed visual tokens; -1 = the whole image
    grid: tuple[int, int]  # rows x columns of the uncompressed visual tokens; of one frame in a video
    before: int = 0  # number of the T text tokens that precede the image
    inputs: Tensor | None = None  # [M, D] embeddings of all visual tokens that left the tower; None at VISION
    context: Tensor | None = None  # [T, C] hidden states of the other tokens at this depth; None at VISION
    crop: Tensor | None = None  # [N] image tile, 0 = thumbnail; None = there is one image only
    frames: int = 1  # temporal length of the uncompressed video in tokens; 1 for images
    frame: Tensor | None = None  # [N] in 0 .. frames - 1, -1 = a newline; None = an image, not a video
    cls_token: Tensor | None = None  # [P, C] the tower's CLS feature of each of P tiles, at VISION
    cls: Callable[[float], Tensor] = (
        _missing  # tower layer -> [H, N] attention of CLS to the patches, softmax over CLS and patches
    )
    scores: Callable[[float], Tensor] = (
        _missing  # tower layer -> [H, P + N] scaled scores of CLS, before softmax: first the score of each
        # tile's CLS for itself, then those for the patches of its tile
    )
    keys: Callable[[float], Tensor] = _missing  # tower layer -> [N, H, d] keys of the patches, unscaled
    queries: Callable[[float], Tensor] = _missing  # the same for their queries; only in towers without CLS
    received: Callable[[float], Tensor] = _missing  # tower layer -> [H, N] mean attention that each patch
    # receives from all patches of its image or frame; only in towers without CLS
    attention: Callable[[int, Sequence[int] | Tensor | None], Tensor] = _missing
    # decoder layer, text rows [R] (negative: from the end) -> [H, R, N], softmax over all tokens; None = the
    # rows of all tokens, visual ones included, in the order of the sequence
    decoder_keys: Callable[[int], tuple[Tensor, Tensor]] = _missing
    # decoder layer -> [N, H, d] and [T, H, d], rotated keys of visual and other tokens; H key heads
    decoder_values: Callable[[int], tuple[Tensor, Tensor]] = _missing  # the same for values
    unrotated: Callable[[int], tuple[Tensor, Tensor, Tensor]] = _missing
    # decoder layer -> queries [M, H, d] and keys [M, G, d] of all tokens up to the last visual one, before
    # rotation, scaled so that their products are logits, and the [N] visual rows among the M
    norm: Callable[[Tensor], Tensor] = _missing  # the decoder's final norm
    projected: Callable[[], Tensor] = _missing  # -> [N, D] output of the projector for `hidden`, at VISION
    clip: Callable[[bool], tuple[Tensor, Tensor]] = _missing
    # whether to truncate a long question -> [N, P] and [M, P], patches and question in CLIP's joint space, at
    # VISION, for methods with `reads_clip`; M is 1 unless the question exceeds CLIP's text context
    words: Callable[[Callable[[str], Sequence[str]]], Tensor] = _missing
    # function that picks words of the question's text -> [M, D] decoder embeddings of their tokens
    probe: Callable[[], tuple[Tensor, Tensor]] = _missing
    # -> [frames, C] output of the tower's pooling head for each frame, and [N] its attention to the tokens,
    # after softmax; only in towers that have such a head
    seed: Callable[[], int] = lambda: 0  # 64-bit hash of pixels and prompt, independent of the batch

    def need_cls(self, method: str) -> Tensor:
        """`cls_token`; ValueError that names `method` if the tower has no CLS token."""
        if self.cls_token is None:
            raise ValueError(f"{method} needs a vision tower with a CLS token")
        return self.cls_token


@dataclass(frozen=True)
class Selection:
    """The tokens that are kept, in the order in which the decoder reads them.

    `index` [K] holds rows of the view. They are unique. They ascend unless the method sets `reordered`, which
    makes the decoder read them in another order, or gives `tokens`. `tokens` [K, C] replaces the values, for
    methods that merge: row i takes the position of index[i], its representative. -1 is a token that
    represents the whole image; it takes the position of the first visual token when positions are original.
    `into` [N] maps each token of the view to the one of the K tokens that it joined with equal weight, -1 =
    none. Features that a family adds to visual tokens between layers (DeepStack) are merged in the same way.
    """

    index: Tensor
    tokens: Tensor | None = None
    into: Tensor | None = None
    reordered: bool = False


@dataclass(frozen=True)
class Traits:
    """The properties of a model that matter to a method before any sample is seen."""

    layers: int  # of the decoder
    width: int  # of its embeddings
    tokens: int  # visual tokens of an image; the maximum if images differ
    tiles: bool = False  # an image consists of a thumbnail and crops
    newlines: bool = False  # every row of the stitched crops ends with a token that comes from no patch
    mrope: bool = False  # positions have several axes


@dataclass(frozen=True)
class TowerView:
    """One image between two halves of the vision tower: N patches, or the tokens they were merged into.

    CLS is not among them: it is never merged and stays in front.
    """

    layer: int
    hidden: Tensor  # [N, C]
    size: Tensor  # [N] number of patches that each token represents
    index: Tensor  # [N] the patch of the original image that each token is or represents
    grid: tuple[int, int]  # rows x columns of the original patches
    keys: Callable[[], Tensor] = _missing  # -> [N, H, d] keys of this layer's attention, unscaled
    values: Callable[[], Tensor] = _missing  # -> [1 + N, H, d] values of the same attention, CLS first
    cls: Callable[[], Tensor] = _missing  # -> [H, N] attention of CLS to the patches, softmax with CLS
    left: int = 0  # number of later layers in which the method merges
    carried: Tensor | None = None  # [N, ...] `Merge.carry` of the previous merging layer


@dataclass(frozen=True)
class Merge:
    """An assignment of N tokens to K: token i joins `into[i]`, which takes the place of row `index[k]`.

    The values are means weighted by size, and sizes add up; the contract computes both.
    """

    index: Tensor  # [K] one of the rows that join k, in the order of the merged tokens
    into: Tensor  # [N] in 0 .. K - 1, every one at least once; -1 = the token is dropped
    carry: Tensor | None = None  # [K, ...] data about these tokens for the method's next merge


class Selector(ABC):
    """A compression method. Subclasses are dataclasses whose fields are the hyper-parameters of the paper."""

    depth: int = INPUT
    positions: Positions = "original"  # "compact": the decoder's positions are renumbered without gaps
    adaptive: bool = False  # its own thresholds set how many tokens are kept: counts and `keep` are 0
    draws: int = 1  # number of runs in an evaluation: more than one if it is random
    reads_text: bool = False  # whether the selection depends on the question
    video: bool = False  # whether it chooses between the frames of a video and rejects images
    cls: Literal["own", "received"] = "own"  # the attention that it reads in the tower, see `ClsSelector`
    attends_by_size: bool = False  # whether decoder layers weight a token by how many joined it (`into`)

    @property
    def tower_layers(self) -> tuple[float, ...]:
        """Tower layers whose `cls`, `scores` and `keys` are read, see `tower_layer`."""
        return ()

    @property
    def reads_clip(self) -> str | None:
        """Folder or hub name of the CLIP model that is read; "" = the model's own, None = none."""
        return None

    def load(self) -> Self:
        """The same method with its data read from disk; ValueError if the data is missing."""
        return self

    def drawn(self, number: int) -> Selector:
        """The method with other random numbers for each `number` from 0 on; itself if it uses none."""
        return self

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """depth -> visual tokens from that depth on, with `keep` after the last stage; at most `tokens`.

        Methods override this if they act several times or at a depth relative to the decoder's. Counts must
        not decrease when `keep` increases, so that `plan` can solve for a mean over layers.
        """
        return {self.depth: keep}

    @abstractmethod
    def select(self, view: View, keep: int) -> Selection:
        """Choose `keep` of the N tokens, 1 <= keep < N."""

    def choices(self, model: Traits) -> tuple[str, ...]:
        """The method's behaviour on such a model where paper and official code define none, one phrase each.

        Choices that all methods share are not included, see `compress.budget.choices_of`.
        """
        return ()

    def cut_caches_from(self, layers: int) -> int | None:
        """First decoder layer whose cache is cut, after the prefill, to the tokens that passed all stages.

        None: every layer keeps the tokens that entered it.
        """
        return None


class Scorer(Selector):
    """A method that scores every token and keeps those with the highest scores."""

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """Scores [N]; tokens with the highest scores are kept."""

    def select(self, view: View, keep: int) -> Selection:
        return Selection(top_k(self.score(view), keep))


@dataclass
class ClsSelector(Selector):
    """A method that reads the attention of CLS in the vision tower.

    `cls="received"` is for towers without CLS: the attention that a token receives from all tokens of its
    image replaces the attention of CLS. The method then acts on the projected tokens, at the decoder's input.
    """

    cls: Literal["own", "received"] = field(default="own", kw_only=True)
    depth = VISION
    positions = "compact"

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION if self.cls == "own" else INPUT: keep}

    def attended(self, view: View, layer: float) -> Tensor:
        """Attention [H, N] of CLS in a tower layer, or its replacement."""
        if self.cls == "received":
            return view.received(layer)
        if view.depth == VISION:
            view.need_cls(type(self).__name__)
        return view.cls(layer)


class TowerSelector(Selector):
    """A method that shortens the sequence inside the vision tower, before it selects among the tokens.

    It scales the image down (`resolution`) or merges patches layer by layer (`tower`, `merge`). Its schedule
    has a count at VISION; if scaling or merging already reaches that count, `select` is not called there.
    """

    depth: int = VISION
    merge_after: Literal["attention", "block"] = "attention"  # the position of `merge` in a tower layer
    proportional: bool = False  # whether later tower layers attend to a merged token by its size
    image_decides: bool = False  # whether `merge` may exceed the requested count, except in the last layer

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        """Rows x columns of patches in the tower: the image is scaled down first if they are below `grid`.

        Their product is then `keep`.
        """
        return grid

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        """Tower layer -> patches after it, for methods that merge inside the tower; `keep` after the last.

        `layers` is the number of tower layers whose output is used.
        """
        return {}

    def merge(self, view: TowerView, keep: int) -> Merge:
        """Merge the N tokens of a tower layer into `keep`, 1 <= keep < N."""
        raise NotImplementedError


def top_k(scores: Tensor, keep: int) -> Tensor:
    """Indices [keep] of the largest `scores` [N], ascending; the lower index wins a tie."""
    return scores.sort(descending=True, stable=True).indices[:keep].sort().values


def tower_layer(layer: float, layers: int) -> int:
    """Index of a tower layer, given as an int (negative: from the end) or as a share of `layers` below 1.

    ValueError if there is no such layer.
    """
    if isinstance(layer, float) and 0 <= layer < 1:
        return min(round(layer * layers), layers - 1)
    if isinstance(layer, float) or not -layers <= layer < layers:
        raise ValueError(f"tower layer {layer}: the tower has {layers}")
    return layer % layers


def scaled_layer(layer: int, layers: int, paper: int = LAYERS) -> int:
    """The decoder layer, from 1 to layers - 1, that corresponds to a layer of the paper's decoder.

    ValueError for a layer that the paper's decoder does not have.
    """
    if not 0 <= layer < paper:
        raise ValueError(f"layer {layer}: choose one from 0 to {paper - 1}, as of a decoder with {paper}")
    return min(max(1, round(layer * layers / paper)), layers - 1)
