"""Questions about a busy scene. Most have one or two referents that are unique in the scene.

The families in `WHOLE` need the whole image. There is one function per family. All take a scene, a generator
and a language, and return None if the scene allows no such question. `about` of a question lists the things
that its answer depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np

from compress.micro.busy_language import (
    BESIDE,
    CHINESE,
    CHINESE_ON,
    CHINESE_TEMPLATES,
    COUNTS,
    ON,
    SYNONYMS,
    TEMPLATES,
)
from compress.micro.busy_world import GROUNDS, KINDS, BusyScene, BusyThing
from compress.micro.language import SIDES
from compress.micro.questions import NEGATIVES, POPULAR, Question, with_options
from compress.micro.world import COLORS

Rng = np.random.Generator
T = TypeVar("T")
# A thing next to an anchor is at most NEAR from it; all things that fit the same phrase are FAR farther away.
NEAR, FAR = 26.0, 22.0  # pixels


@dataclass(frozen=True)
class Phrase:
    """A phrase that names things by colour, kind, ground, and an adjacent thing, each of them optional."""

    color: str | None = None
    kind: str | None = None
    ground: str | None = None
    beside: Phrase | None = None

    def say(self, chinese: bool = False, many: bool = False) -> str:
        """Return the phrase as text; with `many`, things without a kind are "objects"."""
        noun = self.kind or (
            ("wuti" if chinese else "objects") if many else ("wuti" if chinese else "object")
        )
        text = f"{self.color} {noun}" if self.color else noun
        if self.ground:
            text = (CHINESE_ON if chinese else ON).format(x=text, ground=self.ground)
        if self.beside:
            text = BESIDE.format(x=text, y=self.beside.say())
        return " ".join(CHINESE.get(w, w) for w in text.split()) if chinese else text

    def fits(self, thing: BusyThing) -> bool:
        """Return whether a thing has the named colour, kind and ground."""
        return (
            self.color in (None, thing.color)
            and self.kind in (None, thing.kind)
            and self.ground in (None, thing.ground)
        )


class SceneView:
    """The visible things of a scene, counted once for all questions about it."""

    def __init__(self, scene: BusyScene) -> None:
        self.seen = [(i, scene.things[i]) for i in scene.visible()]

    @cached_property
    def pairs(self) -> Counter[tuple[str, str]]:
        return Counter((t.color, t.kind) for _, t in self.seen)

    @cached_property
    def exact(self) -> list[tuple[int, BusyThing, Phrase]]:
        """The things that are unique by colour and kind."""
        return [(i, t, Phrase(t.color, t.kind)) for i, t in self.seen if self.pairs[t.color, t.kind] == 1]

    def unique(self, *parts: str) -> list[tuple[int, BusyThing, Phrase]]:
        """Return the things that are unique by these attributes together."""
        key = [tuple(getattr(t, part) for part in parts) for _, t in self.seen]
        count = Counter(key)
        return [
            (i, t, Phrase(**dict(zip(parts, k, strict=True))))
            for (i, t), k in zip(self.seen, key, strict=True)
            if count[k] == 1
        ]

    def beside(
        self, rng: Rng, part: str, kind: str | None = None
    ) -> tuple[int, BusyThing, Phrase, int] | None:
        """Return a thing named by one attribute and an adjacent anchor, and the number of the anchor."""
        for n in rng.permutation(len(self.exact)).tolist()[:6]:
            j, anchor, name = self.exact[n]
            if anchor.kind == "sign":
                continue
            gaps = sorted(
                (t.distance(anchor.x, anchor.y), i, t)
                for i, t in self.seen
                if i != j and kind in (None, t.kind)
            )
            for gap, i, thing in gaps[:3]:
                value = getattr(thing, part)
                others = [d for d, k, t in gaps if k != i and getattr(t, part) == value]
                alone = not others and sum(getattr(t, part) == value for _, t in self.seen) == 1
                if gap <= NEAR and not alone and (not others or others[0] >= gap + FAR):
                    return i, thing, Phrase(**{part: value}, beside=name), j
        return None


@lru_cache(maxsize=64)
def view_of(scene: BusyScene) -> SceneView:
    """Return the view of a scene, cached for all questions about it."""
    return SceneView(scene)


def _pick(rng: Rng, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _say(family: str, rng: Rng, chinese: bool, **slots: str) -> str:
    forms = (CHINESE_TEMPLATES if chinese else TEMPLATES)[family]
    if not chinese and rng.random() < 0.1:
        slots = {k: " ".join(SYNONYMS.get(w, w) for w in v.split()) for k, v in slots.items()}
    return forms[int(rng.integers(len(forms)))].format(**slots)


def _tell(answer: str, chinese: bool) -> str:
    return CHINESE.get(answer, answer) if chinese else answer


Found = tuple[int, BusyThing, Phrase, tuple[int, ...]]


def _find(
    view: SceneView, rng: Rng, ways: Sequence[tuple[str, ...]], part: str, chinese: bool,
    kind: str | None = None,
) -> Found | None:  # fmt: skip
    """Find a thing with a phrase that fits it alone, by one of `ways`, or by `part` and an adjacent thing.

    Returns None if there is none. The last element of the result lists all things that the phrase names.
    """
    if rng.random() < 0.15 and not chinese:
        near = view.beside(rng, part, kind)
        if near is not None:
            i, thing, phrase, j = near
            return i, thing, phrase, (i, j)
    for n in rng.permutation(len(ways)).tolist():
        pool = [one for one in view.unique(*ways[n]) if kind in (None, one[1].kind)]
        if pool:
            i, thing, phrase = _pick(rng, pool)
            return i, thing, phrase, (i,)
    return None


def color(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """What color is the star on the bricks, or the one next to the blue ring?"""
    view = view_of(scene)
    found = _find(view, rng, (("kind",), ("kind", "ground"), ("kind", "ground")), "kind", chinese)
    if found is None:
        return None
    _, thing, phrase, about = found
    return Question(
        _say("color", rng, chinese, x=phrase.say(chinese)), _tell(thing.color, chinese), "color", about
    )


def shape(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """What shape is the red object on the bricks, or the one next to the blue ring?"""
    view = view_of(scene)
    found = _find(view, rng, (("color",), ("color", "ground"), ("color", "ground")), "color", chinese)
    if found is None or (found[1].kind == "sign" and rng.random() < 0.7):
        return None  # most things of a scene are signs
    _, thing, phrase, about = found
    return Question(
        _say("shape", rng, chinese, x=phrase.say(chinese)), _tell(thing.kind, chinese), "shape", about
    )


def read(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """What does the red sign say, or the one on the bricks, or the one next to the blue ring?"""
    view = view_of(scene)
    ways = (("color", "kind"), ("color", "kind"), ("kind", "ground"))
    found = _find(view, rng, ways, "kind", False, kind="sign")
    if found is None:
        return None
    _, thing, phrase, about = found
    return Question(_say("read", rng, False, x=phrase.say()), " ".join(thing.text), "read", about)


def ground(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """What is under the red star?"""
    view = view_of(scene)
    if not view.exact:
        return None
    i, thing, phrase = _pick(rng, view.exact)
    return Question(
        _say("ground", rng, chinese, x=phrase.say(chinese)), _tell(thing.ground, chinese), "ground", (i,)
    )


def relation(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """Is the red star left of the blue ring? Only for pairs that are clearly apart on that axis."""
    view = view_of(scene)
    if len(view.exact) < 2:
        return None
    a, b = (view.exact[i] for i in rng.permutation(len(view.exact)).tolist()[:2])
    dx, dy = b[1].x - a[1].x, b[1].y - a[1].y
    if max(abs(dx), abs(dy)) < 24:
        return None
    flat = abs(dx) > abs(dy)
    truth = ("left" if dx > 0 else "right") if flat else ("above" if dy > 0 else "below")
    other = {"left": "right", "right": "left", "above": "below", "below": "above"}[truth]
    yes = rng.random() < 0.5
    text = _say("relation", rng, False, x=a[2].say(), y=b[2].say(), side=SIDES[truth if yes else other])
    return Question(text, "yes" if yes else "no", "relation", (a[0], b[0]))


def exist(scene: BusyScene, rng: Rng, chinese: bool = False, negative: str | None = None) -> Question | None:
    """Is there a red star? Half the answers are no; `negative` names how the absent pair is chosen (POPE).

    random: any; popular: one frequent in the whole world; adversarial: one whose colour and kind are both
    frequent in the scene, on different things. The answer "no" depends on the things of that kind, or if
    there are none, of that colour.
    """
    view = view_of(scene)
    if not view.seen:
        return None
    if negative is None and rng.random() < 0.5:
        _, thing = _pick(rng, view.seen)
        same = tuple(i for i, t in view.seen if (t.color, t.kind) == (thing.color, thing.kind))
        text = _say("exist", rng, chinese, x=Phrase(thing.color, thing.kind).say(chinese))
        return Question(text, _tell("yes", chinese), "exist", same)
    how = negative or _pick(rng, NEGATIVES)
    if how == "popular":
        absent = [p for p in POPULAR if p not in view.pairs]
    else:
        absent = [(c, k) for c in COLORS for k in KINDS if (c, k) not in view.pairs]
    if how == "adversarial":
        hues, kinds = Counter(t.color for _, t in view.seen), Counter(t.kind for _, t in view.seen)
        absent = sorted(
            (p for p in absent if hues[p[0]] and kinds[p[1]]), key=lambda p: -hues[p[0]] * kinds[p[1]]
        )
        absent = absent[:4]
    if not absent:
        return None
    color, kind = _pick(rng, absent)
    near = tuple(i for i, t in view.seen if t.kind == kind) or tuple(
        i for i, t in view.seen if t.color == color
    )
    text = _say("exist", rng, chinese, x=Phrase(color, kind).say(chinese))
    return Question(text, _tell("no", chinese), "exist", near)


def count(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """How many red stars, or signs on the bricks, are there? At most four."""
    view = view_of(scene)
    if not view.seen:
        return None
    parts = _pick(rng, (("color", "kind"), ("kind", "ground"), ("color", "ground")))
    for _ in range(4):
        _, thing = _pick(rng, view.seen)
        values = {part: getattr(thing, part) for part in parts}
        if rng.random() < 0.2:  # the count may be zero
            other = _pick(rng, view.seen)[1]
            values[parts[0]] = getattr(other, parts[0])
        phrase = Phrase(**values)
        about = tuple(i for i, t in view.seen if phrase.fits(t))
        if len(about) <= 4 and (len(about) != 1 or rng.random() < 0.5):
            text = _say("count", rng, chinese, x=phrase.say(chinese, many=True))
            return Question(text, _tell(COUNTS[len(about)], chinese), "count", about)
    return None


def total(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """How many stars are there in the whole image? At most six."""
    view = view_of(scene)
    kind = _pick(rng, KINDS) if rng.random() < 0.25 or not view.seen else _pick(rng, view.seen)[1].kind
    about = tuple(i for i, t in view.seen if t.kind == kind)
    if len(about) > 6:
        return None
    text = _say("count", rng, chinese, x=Phrase(kind=kind).say(chinese))
    return Question(text, _tell(COUNTS[len(about)], chinese), "total", about)


def grounds(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """Are there many or few things, and on which grounds, in alphabetical order?"""
    amount = "many" if len(scene.things) > 25 else "few"
    names = " , ".join(sorted({r.ground for r in scene.regions}))
    return Question(_say("grounds", rng, False), f"{amount} objects on {names}", "grounds")


def missing(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """What color is the star on the bricks, or what does the sign say, if there is none?"""
    view = view_of(scene)
    if rng.random() < 0.3:
        absent = [Phrase(c, "sign") for c in COLORS if (c, "sign") not in view.pairs]
        family = "read"
    else:
        on = {(t.kind, t.ground) for _, t in view.seen}
        there = sorted({r.ground for r in scene.regions})
        absent = [Phrase(kind=k, ground=g) for k in KINDS for g in there if (k, g) not in on]
        family = "color"
    if not absent:
        return None
    phrase = _pick(rng, absent)
    near = tuple(i for i, t in view.seen if t.kind == phrase.kind)
    return Question(_say(family, rng, False, x=phrase.say()), "unanswerable", "missing", near)


def choose(scene: BusyScene, rng: Rng, chinese: bool = False) -> Question | None:
    """An open question with four lettered options; the answer is a letter, `options` are the texts."""
    families: list[Callable[..., Question | None]] = [color, shape, count, ground]
    inner = next((q for i in rng.permutation(4) if (q := families[i](scene, rng, chinese)) is not None), None)
    if inner is None:
        return None
    pool = {"color": tuple(COLORS), "shape": KINDS, "count": COUNTS, "ground": GROUNDS}[inner.family]
    others = [_tell(w, chinese) for w in pool if _tell(w, chinese) != inner.answer]
    options = [others[i] for i in rng.permutation(len(others))[:3]]
    options.insert(int(rng.integers(4)), inner.answer)
    return with_options(inner, tuple(options), inner.answer)


FAMILIES: dict[str, Callable[..., Question | None]] = {
    "color": color, "shape": shape, "read": read, "ground": ground, "relation": relation,
    "exist": exist, "count": count, "total": total, "grounds": grounds, "missing": missing, "choose": choose,
}  # fmt: skip
WHOLE = ("total", "grounds")  # families that need the whole image
BILINGUAL = {"exist", "color", "shape", "ground", "count", "choose"}
# Question families of instruction tuning, with their weights.
WEIGHTS = {
    "color": 3.0, "shape": 3.0, "read": 3.0, "ground": 1.5, "relation": 2.5, "exist": 2.5,
    "count": 2.0, "total": 0.8, "grounds": 0.3, "missing": 1.0, "choose": 3.0,
}  # fmt: skip


def mixture(scene: BusyScene, rng: Rng, n: int) -> list[Question]:
    """Draw `n` training questions about one scene, with the families in proportion to `WEIGHTS`.

    A fifth of the questions in bilingual families are asked in pinyin.
    """
    names = list(WEIGHTS)
    share = np.array(list(WEIGHTS.values()))
    made: list[Question] = []
    while len(made) < n:
        for drawn in rng.choice(len(names), n, p=share / share.sum()).tolist():
            family = names[drawn]
            question = FAMILIES[family](scene, rng, family in BILINGUAL and rng.random() < 0.2)
            if question is not None:
                made.append(question)
    return made[:n]
