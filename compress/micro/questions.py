"""Questions about a scene, with answers computed from the scene.

There is one function per family. All take a scene, a generator and a language, ask only about visible things
(a cut hides things), and return None if the scene allows no such question. The families imitate the formats
of the large benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from compress.micro.language import (
    CELLS,
    CHINESE,
    CHINESE_TEMPLATES,
    COUNTS,
    LETTERS,
    SIDES,
    SYNONYMS,
    TEMPLATES,
)
from compress.micro.world import COLORS, SHAPES, TEXTURES, Scene, Thing

KINDS = (*SHAPES, "number")
NEGATIVES = ("random", "popular", "adversarial")
POPULAR = tuple((c, k) for c in ("red", "blue", "green") for k in ("circle", "square", "triangle", "star"))


@dataclass(frozen=True)
class Question:
    """`about` are the indices of the scene's things that the answer depends on (empty: all or none)."""

    text: str
    answer: str
    family: str
    about: tuple[int, ...] = ()
    options: tuple[str, ...] = ()


Rng = np.random.Generator
T = TypeVar("T")


def _say(family: str, rng: Rng, chinese: bool, **slots: str) -> str:
    if chinese:
        forms = CHINESE_TEMPLATES[family]
        slots = {k: " ".join(CHINESE.get(w, w) for w in v.split()) for k, v in slots.items()}
    else:
        forms = TEMPLATES[family]
        if rng.random() < 0.1:
            slots = {k: " ".join(SYNONYMS.get(w, w) for w in v.split()) for k, v in slots.items()}
    return forms[int(rng.integers(len(forms)))].format(**slots)


def _tell(answer: str, chinese: bool) -> str:
    return CHINESE.get(answer, answer) if chinese else answer


def _seen(scene: Scene) -> list[tuple[int, Thing]]:
    visible = set(map(id, scene.visible()))
    return [(i, t) for i, t in enumerate(scene.things) if id(t) in visible]


def _pick(rng: Rng, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def refer(scene: Scene, rng: Rng, full: float = 0.35) -> tuple[int, Thing, str] | None:
    """Find a visible thing with a unique phrase: its kind or, with probability `full`, colour and kind."""
    seen = _seen(scene)
    unique = [(i, t, t.kind) for i, t in seen if sum(o.kind == t.kind for _, o in seen) == 1]
    exact = [
        (i, t, f"{t.color} {t.kind}")
        for i, t in seen
        if sum((o.kind, o.color) == (t.kind, t.color) for _, o in seen) == 1
    ]
    pool = exact if not unique or rng.random() < full else unique
    return _pick(rng, pool) if pool else None


def exist(scene: Scene, rng: Rng, chinese: bool = False, negative: str | None = None) -> Question | None:
    """Is there such a thing? Half the answers are no; `negative` names how the absent one is chosen (POPE).

    random: any absent one; popular: one frequent in the whole world; adversarial: a kind and a colour that
    are both present, on different things.
    """
    seen = _seen(scene)
    if not seen:
        return None
    pairs, kinds = {(t.color, t.kind) for _, t in seen}, {t.kind for _, t in seen}
    if negative is None and rng.random() < 0.5:
        i, thing = _pick(rng, seen)
        phrase = thing.kind if rng.random() < 0.4 else f"{thing.color} {thing.kind}"
        same = tuple(
            j for j, t in seen if t.kind == thing.kind and (phrase == thing.kind or t.color == thing.color)
        )
        return Question(_say("exist", rng, chinese, x=phrase), _tell("yes", chinese), "exist", same)
    how = negative or _pick(rng, NEGATIVES)
    if how == "adversarial":
        absent = [(c, k) for c in {t.color for _, t in seen} for k in kinds if (c, k) not in pairs]
    elif how == "popular":
        absent = [p for p in POPULAR if p not in pairs]
    else:
        absent = [(c, k) for c in COLORS for k in KINDS if (c, k) not in pairs]
    if not absent:
        return None
    color, kind = _pick(rng, sorted(absent))
    phrase = kind if kind not in kinds and rng.random() < 0.4 else f"{color} {kind}"
    near = tuple(j for j, t in seen if t.kind == kind or (phrase != kind and t.color == color))
    return Question(_say("exist", rng, chinese, x=phrase), _tell("no", chinese), "exist", near)


def color(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """What colour is the one star?"""
    found = refer(scene, rng, full=0.0)
    if found is None or " " in found[2]:
        return None
    i, thing, phrase = found
    return Question(_say("color", rng, chinese, x=phrase), _tell(thing.color, chinese), "color", (i,))


def shape(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """What is the only red thing?"""
    seen = _seen(scene)
    pool = [(i, t) for i, t in seen if sum(o.color == t.color for _, o in seen) == 1]
    if not pool:
        return None
    i, thing = _pick(rng, pool)
    return Question(_say("shape", rng, chinese, x=thing.color), _tell(thing.kind, chinese), "shape", (i,))


def relation(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """Is the star left of the circle? Only for pairs that are clearly apart on that axis."""
    a, b = refer(scene, rng, full=0.2), refer(scene, rng, full=0.2)
    if a is None or b is None or a[0] == b[0]:
        return None
    dx, dy = b[1].x - a[1].x, b[1].y - a[1].y
    if max(abs(dx), abs(dy)) < 12:
        return None
    flat = abs(dx) > abs(dy)
    truth = ("left" if dx > 0 else "right") if flat else ("above" if dy > 0 else "below")
    other = {"left": "right", "right": "left", "above": "below", "below": "above"}[truth]
    yes = rng.random() < 0.5
    text = _say("relation", rng, chinese, x=a[2], y=b[2], side=SIDES[truth if yes else other])
    return Question(text, "yes" if yes else "no", "relation", (a[0], b[0]))


def where(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """In which cell of a 6 x 6 grid is the star? (Grounding, as in instruction mixtures.)"""
    found = refer(scene, rng)
    if found is None:
        return None
    row, column = scene.cell(found[1])
    return Question(_say("where", rng, chinese, x=found[2]), CELLS[row * 6 + column], "where", (found[0],))


def count(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """How many objects, red objects or stars are there?"""
    seen = _seen(scene)
    how = rng.random()
    noun = "wuti" if chinese else "objects"
    if how < 0.25 or not seen:
        phrase, about = noun, [i for i, _ in seen]
    elif how < 0.65:
        hue = _pick(rng, [t.color for _, t in seen]) if rng.random() < 0.85 else _pick(rng, list(COLORS))
        phrase, about = f"{hue} {noun}", [i for i, t in seen if t.color == hue]
    else:
        kind = _pick(rng, [t.kind for _, t in seen]) if rng.random() < 0.85 else _pick(rng, list(KINDS))
        phrase, about = kind, [i for i, t in seen if t.kind == kind]
    answer = COUNTS[len(about)]
    return Question(_say("count", rng, chinese, x=phrase), _tell(answer, chinese), "count", tuple(about))


def read(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """Read the one number, or the one red number; the answer consists of its digits with spaces between."""
    numbers = [(i, t) for i, t in _seen(scene) if t.kind == "number"]
    pool = [
        (i, t) for i, t in numbers if len(numbers) == 1 or sum(o.color == t.color for _, o in numbers) == 1
    ]
    if not pool:
        return None
    i, thing = _pick(rng, pool)
    phrase = "number" if len(numbers) == 1 and rng.random() < 0.6 else f"{thing.color} number"
    return Question(_say("read", rng, chinese, x=phrase), " ".join(thing.text), "read", (i,))


def texture(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """What is the background?"""
    return Question(_say("texture", rng, chinese), _tell(scene.texture, chinese), "texture")


def caption(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """Describe the image: the answer lists all things in reading order of their cells."""
    seen = sorted((scene.cell(t), t.x, i, t) for i, t in _seen(scene))
    if not seen:
        return None
    text = " , ".join(f"{t.color} {t.kind}" for *_, t in seen)
    return Question(_say("caption", rng, chinese), text, "caption", tuple(i for _, _, i, _ in seen))


def missing(scene: Scene, rng: Rng, chinese: bool = False) -> Question | None:
    """Ask for the colour of an absent thing, or for an absent number; the answer is "unanswerable"."""
    kinds = {t.kind for _, t in _seen(scene)}
    if "number" not in kinds and rng.random() < 0.3:
        return Question(_say("read", rng, chinese, x="number"), "unanswerable", "missing")
    absent = [k for k in SHAPES if k not in kinds]
    return Question(_say("color", rng, chinese, x=_pick(rng, absent)), "unanswerable", "missing")


def choose(scene: Scene, rng: Rng, chinese: bool = False) -> Question:
    """An open question with four lettered options; the answer is a letter, `options` are the texts."""
    families: list[Callable[..., Question | None]] = [color, shape, count, texture]
    # In random order, so that families that every scene allows are not asked too often.
    inner = next(q for i in rng.permutation(4) if (q := families[i](scene, rng, chinese)) is not None)
    pool = {"color": tuple(COLORS), "shape": KINDS, "count": COUNTS, "texture": TEXTURES}[inner.family]
    others = [_tell(w, chinese) for w in pool if _tell(w, chinese) != inner.answer]
    options = [others[i] for i in rng.permutation(len(others))[:3]]
    options.insert(int(rng.integers(4)), inner.answer)
    return with_options(inner, tuple(options), inner.answer)


def with_options(inner: Question, options: tuple[str, ...], answer: str) -> Question:
    """Turn an open question into multiple choice; options are lettered in the given order."""
    text = inner.text + "".join(
        f" {letter} {option}" for letter, option in zip(LETTERS, options, strict=True)
    )
    return Question(text, LETTERS[options.index(answer)], "choose", inner.about, options)


FAMILIES: dict[str, Callable[..., Question | None]] = {
        "exist": exist, "color": color, "shape": shape, "relation": relation, "where": where, "count": count,
    "read": read, "texture": texture, "caption": caption, "missing": missing, "choose": choose,
}  # fmt: skip
# Family weights of instruction tuning: first mainly about what things are, then more about where they are.
MIXTURES = {
    "what": {
        "exist": 4, "color": 3, "shape": 2.5, "relation": 2.5, "where": 2, "count": 2.5, "read": 2,
        "texture": 0.4, "caption": 1.2, "missing": 0.9, "choose": 3,
    },
    "where": {
        "exist": 3, "color": 1.5, "shape": 1.5, "relation": 3, "where": 4, "count": 3, "read": 2.5,
        "texture": 0.3, "caption": 0.4, "missing": 0.7, "choose": 3,
    },
}  # fmt: skip
BILINGUAL = {"exist", "color", "shape", "count", "texture", "choose"}


def mixture(scene: Scene, rng: Rng, n: int, kind: str = "where") -> list[Question]:
    """Draw `n` training questions about one scene, with the families in proportion to `MIXTURES[kind]`.

    A quarter of the questions in bilingual families are asked in pinyin.
    """
    names = list(MIXTURES[kind])
    weights = np.array(list(MIXTURES[kind].values()))
    made: list[Question] = []
    while len(made) < n:
        family = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        chinese = family in BILINGUAL and rng.random() < 0.25
        question = FAMILIES[family](scene, rng, chinese)
        if question is not None:
            made.append(question)
    return made
