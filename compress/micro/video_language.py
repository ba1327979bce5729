"""The words of the clips: those of the micro world, and those for time and motion behind them."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from compress.micro import language as micro
from compress.micro.language import QWEN_TOKENS, tokenizer_of, words_of

WAYS = ("left", "right", "up", "down")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("is there a {x} ?", "does the video show a {x} ?", "can you see any {x} here ?"),
    "color": micro.TEMPLATES["color"],
    "shape": micro.TEMPLATES["shape"],
    "count": ("how many {x} are there in all ?", "count the {x} in the video ."),
    "motion": ("which way does the {x} move ?", "where does the {x} go ?"),
    "order": ("which came {when} , the {x} or the {y} ?",),
    "entry": ("which thing came {when} ?", "what came {when} ?"),
    "change": ("what color was the {x} {when} ?", "which color did the {x} have {when} ?"),
    "needle": ("what does the sign say ?", "what is the number ?", "read the number ."),
}
WHEN = ("first", "last")


def words() -> list[str]:
    """All words: those of the micro world in its order, then the new ones in order of first use."""
    return words_of([tuple(micro.words()), WAYS, *TEMPLATES.values(), WHEN])


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of `micro-video`; see `tokenizer_of`."""
    return tokenizer_of(words(), QWEN_TOKENS)
