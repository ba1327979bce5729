"""The vocabulary of the clips: a part of the micro world's words, and words for time and motion."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from compress.micro import language as micro
from compress.micro.language import COUNTS, LETTERS, QWEN_TOKENS, tokenizer_of, words_of
from compress.micro.world import COLORS, SHAPES, TEXTURES

WAYS = ("left", "right", "up", "down")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("is there a {x} ?", "does the video show a {x} ?", "can you see any {x} here ?"),
    "color": micro.TEMPLATES["color"],
    "shape": micro.TEMPLATES["shape"],
    "count": (
        "how many {x} are there in all ?", "how many {x} were there ?", "count the {x} in the video .",
    ),
    "motion": ("which way does the {x} move ?", "where does the {x} go ?"),
    "order": ("which came {when} , the {x} or the {y} ?",),
    "entry": ("which thing came {when} ?", "what came {when} ?"),
    "change first": (
        "what color was the {x} first ?", "which color did the {x} have first ?",
        "what color was the {x} before ?",
    ),
    "change last": (
        "what color was the {x} last ?", "which color did the {x} have last ?", "what color is the {x} now ?",
    ),
    "needle": ("what does the sign show ?", "what is on the sign ?"),
}  # fmt: skip
WHEN = ("first", "last")
EXTRA = ("user", "assistant", "yes", "no", "unanswerable", "and", ",", "object", "objects", "image")


def words() -> list[str]:
    """Return all words in order of first use: the tokenizer's vocabulary after the special tokens."""
    return words_of([
        tuple(COLORS), SHAPES, ("sign",), TEXTURES, COUNTS, LETTERS, EXTRA, WAYS, WHEN,
        *TEMPLATES.values(),
    ])  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of `micro-video`; see `tokenizer_of`."""
    return tokenizer_of(words(), QWEN_TOKENS)
