"""The training mixture: what labels are searched on, as the paper takes part of LLaVA's instruction mixture.

One question about each scene of the training split, drawn from the families that the benchmarks ask. A sample
is named by its scene's number, so a label store alone says which samples it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.tasks.micro import sample
from compress.micro import questions as q
from compress.micro.world import SPOILS, rng_of, scene
from compress.samples import Sample

NAME = "mixture"
FAMILIES = (
    q.exist, q.color, q.shape, q.relation, q.count, q.choose,
    q.exist, q.read, q.texture, q.choose, q.count, q.choose,
)  # fmt: skip
FIRST = 8_000_000  # scenes that neither the model's own training nor a benchmark uses


def training_sample(number: int) -> Sample:
    """The `number`-th sample of the mixture, the same for ever."""
    seed = FIRST + number
    spoil = SPOILS[number // 10 % 3] if (number + number // 10) % 10 == 9 else None
    picture = scene("train", seed, spoil)
    rng = rng_of("train", seed, 2)
    family = FAMILIES[number % len(FAMILIES)]
    chinese = family in (q.choose, q.texture) and bool(rng.random() < 0.5)
    question = family(picture, rng, chinese) or q.missing(picture, rng)
    assert question is not None
    return sample(NAME, number, picture, question)


def training_samples(count: int, start: int = 0) -> list[Sample]:
    """`count` samples from number `start` on."""
    if count < 1 or start < 0:
        raise ValueError(f"count={count}, start={start}: ask for at least one sample from number 0 on")
    return [training_sample(number) for number in range(start, start + count)]


def labelled_samples(keys: Iterable[str]) -> list[Sample]:
    """The samples that the keys of a label store name; ValueError for a key of another data set."""
    return [training_sample(_number(key)) for key in keys]


def _number(key: str) -> int:
    parts: Sequence[str] = key.rsplit("-", 1)
    if not key.startswith(f"{NAME}/") or len(parts) != 2 or not parts[1].isdecimal():
        raise ValueError(
            f"label of '{key}': this sample is not of the micro mixture, so its image is not known here"
        )
    return int(parts[1])
