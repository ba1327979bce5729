"""The vocabulary of the busy world: a part of the micro world's words, and its own."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import LlavaProcessor, PreTrainedTokenizerFast

from compress.micro import language as micro
from compress.micro.busy_world import CHARACTERS, GROUNDS, SIDE
from compress.micro.language import LETTERS, SIDES, processor_of, tokenizer_of, words_of
from compress.micro.world import COLORS, SHAPES

COUNTS = ("zero", "one", "two", "three", "four", "five", "six")
UNUSED = ("number", "clouds", "gradient")  # words of the micro world that the busy world does not use
SYNONYMS = {word: other for word, other in micro.SYNONYMS.items() if word not in UNUSED} | {"sign": "plate"}
CHINESE = {word: other for word, other in micro.CHINESE.items() if word not in UNUSED} | {"sign": "paizi"}

TEMPLATES: dict[str, tuple[str, ...]] = {
    **{family: micro.TEMPLATES[family] for family in ("exist", "color")},
    "shape": ("what shape is the {x} ?", "which thing is the {x} ?", "name the {x} ."),
    "read": ("what does the {x} say ?", "read the {x} ."),
    "ground": ("what is under the {x} ?", "on which ground is the {x} ?"),
    **{family: micro.TEMPLATES[family] for family in ("relation", "count")},
    "grounds": ("describe the image .", "which grounds does the image show ?"),
}
CHINESE_TEMPLATES: dict[str, tuple[str, ...]] = {
    **{family: micro.CHINESE_TEMPLATES[family] for family in ("exist", "color")},
    "shape": ("{x} shi shenme xingzhuang ?",),
    "ground": ("{x} xia shi shenme ?",),
    "count": micro.CHINESE_TEMPLATES["count"],
}
# A thing on a ground, and one next to another thing.
ON, CHINESE_ON = "{x} on the {ground}", "{ground} shang {x}"
BESIDE = "{x} next to the {y}"
EXTRA = (
    "user", "assistant", "yes", "no", "unanswerable", "and", ",", "object", "objects", "wuti", "here",
    "many", "few",
)  # fmt: skip


def words() -> list[str]:
    """Return all words in order of first use: the tokenizer's vocabulary after the special tokens."""
    lists: list[Sequence[str]] = [
        tuple(COLORS), SHAPES, ("sign",), GROUNDS, tuple(CHARACTERS), COUNTS, LETTERS,
        tuple(SYNONYMS.values()), tuple(CHINESE.values()), EXTRA, tuple(SIDES.values()),
        *TEMPLATES.values(), *CHINESE_TEMPLATES.values(), (ON, CHINESE_ON, BESIDE),
    ]  # fmt: skip
    return words_of(lists)


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the busy world; see `tokenizer_of`."""
    return tokenizer_of(words())


def processor(mean: Sequence[float], std: Sequence[float]) -> LlavaProcessor:
    """The processor of the busy model; see `processor_of`."""
    return processor_of(tokenizer(), SIDE, mean, std)
