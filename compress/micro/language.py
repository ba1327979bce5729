"""The two small languages of the micro world: English, and pinyin as its Chinese (for MMBench-CN).

Every word occurs in questions or answers, so each embedding is trained and can serve as an anchor of visual
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from compress.micro.world import COLORS, PATCH, SHAPES, SIDE, TEXTURES

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
LLAVA_TOKENS = {"image_token": "<image>"}
QWEN_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
    "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>",
}  # fmt: skip
LETTERS = ("a", "b", "c", "d")
COUNTS = ("zero", "one", "two", "three", "four", "five", "six")
DIGITS = tuple("0123456789")
CELLS = tuple(f"{row}{column + 1}" for row in "pqrstu" for column in range(6))

SYNONYMS = {
    "circle": "disc", "square": "box", "triangle": "wedge", "star": "asterisk", "heart": "valentine",
    "cross": "plus", "diamond": "rhombus", "ring": "hoop", "moon": "crescent", "hourglass": "sandglass",
    "number": "numeral", "red": "scarlet", "green": "emerald", "blue": "navy", "yellow": "golden",
    "purple": "violet", "orange": "amber", "cyan": "turquoise", "pink": "rosy",
}  # fmt: skip
CHINESE = {
    "circle": "yuan", "square": "fangkuai", "triangle": "sanjiao", "star": "xingxing", "heart": "aixin",
    "cross": "shizi", "diamond": "lingxing", "ring": "yuanhuan", "moon": "yueliang", "hourglass": "shalou",
    "number": "shuzi", "red": "hongse", "green": "lvse", "blue": "lanse", "yellow": "huangse",
    "purple": "zise", "orange": "chengse", "cyan": "qingse", "pink": "fense", "yes": "shi", "no": "bushi",
    "zero": "ling", "one": "yi", "two": "er", "three": "san", "four": "si", "five": "wu", "six": "liu",
    "plain": "chunse", "stripes": "tiaowen", "dots": "yuandian", "checks": "fangge", "waves": "bolang",
    "clouds": "yunduo", "bricks": "zhuanqiang", "gradient": "jianbian",
}  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("is there a {x} ?", "does the image show a {x} ?", "can you see any {x} here ?"),
    "color": ("what color is the {x} ?", "which color does the {x} have ?", "tell me the color of the {x} ."),
    "shape": ("what shape is the {x} object ?", "which thing is {x} ?", "name the {x} object ."),
    "relation": ("is the {x} {side} the {y} ?", "can the {x} be found {side} the {y} ?"),
    "where": ("where is the {x} ?", "in which cell is the {x} ?"),
    "count": ("how many {x} are there ?", "count the {x} in the image ."),
    "read": ("what is the {x} ?", "read the {x} ."),
    "texture": ("what is behind the objects ?", "which background is this ?"),
    "caption": ("describe the image .", "list all objects ."),
}
CHINESE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("tu li you {x} ma ?",),
    "color": ("{x} shi shenme yanse ?",),
    "shape": ("{x} wuti shi shenme xingzhuang ?",),
    "count": ("yigong you jige {x} ?",),
    "texture": ("beijing shi shenme ?",),
}
SIDES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
EXTRA = (
    "user", "assistant", "yes", "no", "unanswerable", "and", ",",
    "object", "objects", "wuti", "written", "here",
)  # fmt: skip

CHAT_TEMPLATE = (
    "<s>{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }} {% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image> {% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def words() -> list[str]:
    """Return all words in order of first use: the tokenizer's vocabulary after the special tokens."""
    lists: list[Sequence[str]] = [
        tuple(COLORS), SHAPES, ("number",), TEXTURES, DIGITS, COUNTS, LETTERS, CELLS,
        tuple(SYNONYMS.values()), tuple(CHINESE.values()), EXTRA, tuple(SIDES.values()),
        *TEMPLATES.values(), *CHINESE_TEMPLATES.values(),
    ]  # fmt: skip
    return words_of(lists)


def words_of(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the words of texts and templates, without the slots, in order of first use."""
    seen = dict.fromkeys(
        w for words in lists for text in words for w in text.split() if not w.startswith("{")
    )
    return list(seen)


def tokenizer(family: Mapping[str, str] = MappingProxyType(LLAVA_TOKENS)) -> PreTrainedTokenizerFast:
    """The tokenizer of the micro world; see `tokenizer_of`."""
    return tokenizer_of(words(), family)


def tokenizer_of(
    words: Sequence[str], family: Mapping[str, str] = MappingProxyType(LLAVA_TOKENS)
) -> PreTrainedTokenizerFast:
    """Build a lower-casing word-level tokenizer that pads on the left; the chat template adds <s>.

    `family` names the special tokens of a model family. The words have the same ids in all families: the
    first of these tokens precedes the words, the others follow them.
    """
    image, *others = family.values()
    vocabulary = {w: i for i, w in enumerate((*SPECIAL, image, *words, *others))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", extra_special_tokens=dict(family),
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def processor(mean: Sequence[float], std: Sequence[float]) -> LlavaProcessor:
    """The processor of the micro model; see `processor_of`."""
    return processor_of(tokenizer(), SIDE, mean, std)


def processor_of(
    tokenizer: PreTrainedTokenizerFast, side: int, mean: Sequence[float], std: Sequence[float]
) -> LlavaProcessor:
    """Build the processor, saved for `AutoProcessor`, of a model with images of `side` x `side` pixels."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
        image_mean=list(mean), image_std=list(std), do_convert_rgb=True,
    )  # fmt: skip
    return LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
