"""Questions about a clip, each with one answer. Most need more than one frame.

There is one function per family. All take a scene and a generator, and return None if the scene allows no
such question. `about` of a question lists the actors that its answer depends on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from compress.micro.language import COUNTS
from compress.micro.questions import Question, with_options
from compress.micro.video_language import TEMPLATES, WAYS, WHEN
from compress.micro.video_world import Actor, VideoScene
from compress.micro.world import COLORS, SHAPES

Rng = np.random.Generator
T = TypeVar("T")
Named = tuple[int, Actor]


def _pick(rng: Rng, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _say(family: str, rng: Rng, **slots: str) -> str:
    return _pick(rng, TEMPLATES[family]).format(**slots)


def _shapes(scene: VideoScene) -> list[Named]:
    """Return the actors that questions call objects or things: all but the sign. No two share a color."""
    return [(i, one) for i, one in enumerate(scene.actors) if one.kind != "sign"]


def _of_one_kind(scene: VideoScene) -> list[Named]:
    """Return the shapes that are unique by their kind."""
    kinds = Counter(one.kind for one in scene.actors)
    return [(i, one) for i, one in _shapes(scene) if kinds[one.kind] == 1]


def _name(scene: VideoScene, actor: Actor) -> str:
    """Return the kind of an actor, or color and kind if there are several of this kind."""
    kinds = Counter(one.kind for one in scene.actors)
    return actor.kind if kinds[actor.kind] == 1 else f"{actor.thing.color} {actor.kind}"


def exist(scene: VideoScene, rng: Rng) -> Question | None:
    """Is there a red star? Half the answers are no; then there are things of that kind or color."""
    if rng.random() < 0.5:
        i, actor = _pick(rng, _shapes(scene))
        text = _say("exist", rng, x=f"{_pick(rng, actor.colors)} {actor.kind}")
        return Question(text, "yes", "exist", (i,))
    shapes = _shapes(scene)
    there = {(color, one.kind) for _, one in shapes for color in one.colors}
    kinds = sorted({one.kind for _, one in shapes})
    absent = [(color, kind) for color in COLORS for kind in kinds if (color, kind) not in there]
    colors = {color for color, _ in there}
    near = [pair for pair in absent if pair[0] in colors]
    color, kind = _pick(rng, near if rng.random() < 0.7 and near else absent)
    about = tuple(i for i, one in shapes if one.kind == kind or color in one.colors)
    return Question(_say("exist", rng, x=f"{color} {kind}"), "no", "exist", about)


def color(scene: VideoScene, rng: Rng) -> Question | None:
    """What color is the star? It is present for a part of the time."""
    pool = [(i, one) for i, one in _of_one_kind(scene) if len(one.colors) == 1]
    if not pool:
        return None
    i, actor = _pick(rng, pool)
    return Question(_say("color", rng, x=actor.kind), actor.thing.color, "color", (i,))


def shape(scene: VideoScene, rng: Rng) -> Question | None:
    """What shape is the red object?"""
    i, actor = _pick(rng, _shapes(scene))
    return Question(_say("shape", rng, x=_pick(rng, actor.colors)), actor.kind, "shape", (i,))


def count(scene: VideoScene, rng: Rng) -> Question | None:
    """How many stars are there in the whole clip? Zero to three, which differ in color."""
    kinds = Counter(one.kind for _, one in _shapes(scene))
    sizes = sorted({0, *kinds.values()})
    size = sizes[-1] if rng.random() < 0.4 else _pick(rng, sizes)
    printed = {one.thing.text for one in scene.actors}
    kind = _pick(rng, [one for one in SHAPES if kinds[one] == size and one not in printed])
    about = tuple(i for i, one in enumerate(scene.actors) if one.kind == kind)
    return Question(_say("count", rng, x=kind), COUNTS[size], "count", about)


def motion(scene: VideoScene, rng: Rng) -> Question | None:
    """Which way does the star move?"""
    pool = [(i, one) for i, one in enumerate(scene.actors) if one.way]
    if not pool:
        return None
    i, actor = _pick(rng, pool)
    return Question(_say("motion", rng, x=_name(scene, actor)), str(actor.way), "motion", (i,))


def order(scene: VideoScene, rng: Rng) -> Question | None:
    """Which of two things came first, or last? They came at different moments."""
    pool = _of_one_kind(scene)
    pairs = [(a, b) for a in pool for b in pool if a[1].first != b[1].first]
    if not pairs:
        return None
    (i, a), (j, b) = _pick(rng, pairs)
    when = _pick(rng, WHEN)
    earlier = a if a.first < b.first else b
    answer = earlier if when == "first" else (b if earlier is a else a)
    return Question(_say("order", rng, when=when, x=a.kind, y=b.kind), answer.kind, "order", (i, j))


def entry(scene: VideoScene, rng: Rng) -> Question | None:
    """Which thing of all came first, or last?"""
    when, shapes = _pick(rng, WHEN), _shapes(scene)
    moment = (min if when == "first" else max)(one.first for _, one in shapes)
    came = [one for _, one in shapes if one.first == moment]
    if len(came) > 1:
        return None
    return Question(_say("entry", rng, when=when), came[0].kind, "entry", tuple(i for i, _ in shapes))


def change(scene: VideoScene, rng: Rng) -> Question | None:
    """What color was the star first, or last? It changed its color."""
    pool = [(i, one) for i, one in enumerate(scene.actors) if one.then]
    if not pool:
        return None
    i, actor = _pick(rng, pool)
    when = _pick(rng, WHEN)
    answer = actor.colors[0 if when == "first" else 1]
    return Question(_say(f"change {when}", rng, x=actor.kind), answer, "change", (i,))


def needle(scene: VideoScene, rng: Rng) -> Question | None:
    """What does the sign show? It is present for one moment; the answer is a color and a shape."""
    for i, actor in enumerate(scene.actors):
        if actor.kind == "sign":
            return Question(_say("needle", rng), f"{actor.thing.color} {actor.thing.text}", "needle", (i,))
    return None


def choose(scene: VideoScene, rng: Rng) -> Question | None:
    """A question with four lettered options; the answer is a letter, `options` are the texts."""
    asked = [motion, change, entry, count, color, shape]
    turns = rng.choice(len(asked), len(asked), replace=False, p=[0.3, 0.2, 0.2, 0.14, 0.08, 0.08])
    inner = next(q for i in turns if (q := asked[i](scene, rng)) is not None)
    pool = {"motion": WAYS, "count": COUNTS[:4], "entry": SHAPES, "shape": SHAPES}.get(
        inner.family, tuple(COLORS)
    )
    # Wrong options that occur in the clip come first, since they mislead most.
    there = {one.kind for one in scene.actors} | {hue for one in scene.actors for hue in one.colors}
    others = [word for word in pool if word != inner.answer]
    others = [others[i] for i in rng.permutation(len(others))]
    others = sorted(others, key=lambda word: word not in there)[:3]
    options = [others[i] for i in rng.permutation(3)]
    options.insert(int(rng.integers(4)), inner.answer)
    return with_options(inner, tuple(options), inner.answer)


FAMILIES: dict[str, Callable[[VideoScene, Rng], Question | None]] = {
    "exist": exist, "color": color, "shape": shape, "count": count, "motion": motion, "order": order,
    "entry": entry, "change": change, "needle": needle, "choose": choose,
}  # fmt: skip
# Question families of instruction tuning, with their weights.
WEIGHTS = {
    "exist": 0.5, "color": 0.4, "shape": 0.3, "count": 1.5, "motion": 2.5, "order": 3.0, "entry": 1.5,
    "change": 1.5, "needle": 2.5, "choose": 7.0,
}  # fmt: skip


def questions_about(scene: VideoScene, rng: Rng) -> list[Question]:
    """Return one question of every family that the scene allows."""
    asked = (ask(scene, rng) for ask in FAMILIES.values())
    return [question for question in asked if question is not None]


def mixture(scene: VideoScene, rng: Rng, n: int) -> list[Question]:
    """Draw `n` training questions about one scene, with the families in proportion to `WEIGHTS`."""
    names, share = list(WEIGHTS), np.array(list(WEIGHTS.values()))
    made: list[Question] = []
    while len(made) < n:
        for drawn in rng.choice(len(names), n, p=share / share.sum()).tolist():
            question = FAMILIES[names[drawn]](scene, rng)
            if question is not None:
                made.append(question)
    return made[:n]
