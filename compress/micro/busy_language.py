"""The words of the busy world: those of the micro world that it needs, and its own."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from compress.micro import language as micro
from compress.micro.busy_world import CHARACTERS, GROUNDS, PATCH, SIDE
from compress.micro.language import CHAT_TEMPLATE, LETTERS, SIDES, SPECIAL
from compress.micro.world import COLORS, SHAPES

COUNTS = ("zero", "one", "two", "three", "four", "five", "six")
UNUSED = ("number", "clouds", "gradient")  # words of the micro world that mean nothing here
SYNONYMS = {word: other for word, other in micro.SYNONYMS.items() if word not in UNUSED} | {"sign": "plate"}
CHINESE = {word: other for word, other in micro.CHINESE.items() if word not in UNUSED} | {"sign": "paizi"}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("is there a {x} ?", "does the image show a {x} ?", "can you see any {x} here ?"),
    "color": ("what color is the {x} ?", "which color does the {x} have ?", "tell me the color of the {x} ."),
    "shape": ("what shape is the {x} ?", "which thing is the {x} ?", "name the {x} ."),
    "read": ("what does the {x} say ?", "read the {x} ."),
    "ground": ("what is under the {x} ?", "on which ground is the {x} ?"),
    "relation": ("is the {x} {side} the {y} ?", "can the {x} be found {side} the {y} ?"),
    "count": ("how many {x} are there ?", "count the {x} in the image ."),
    "grounds": ("describe the image .", "which grounds does the image show ?"),
}
CHINESE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "exist": ("tu li you {x} ma ?",),
    "color": ("{x} shi shenme yanse ?",),
    "shape": ("{x} shi shenme xingzhuang ?",),
    "ground": ("{x} xia shi shenme ?",),
    "count": ("yigong you jige {x} ?",),
}
# A thing on a ground, and one next to another thing.
ON, CHINESE_ON = "{x} on the {ground}", "{ground} shang {x}"
BESIDE = "{x} next to the {y}"
EXTRA = (
    "user", "assistant", "yes", "no", "unanswerable", "and", ",", "object", "objects", "wuti", "here",
    "many", "few",
)  # fmt: skip


def words() -> list[str]:
    """All words in order of first use: the tokenizer's vocabulary after the special tokens."""
    lists: list[Sequence[str]] = [
        tuple(COLORS), SHAPES, ("sign",), GROUNDS, tuple(CHARACTERS), COUNTS, LETTERS,
        tuple(SYNONYMS.values()), tuple(CHINESE.values()), EXTRA, tuple(SIDES.values()),
        *TEMPLATES.values(), *CHINESE_TEMPLATES.values(), (ON, CHINESE_ON, BESIDE),
    ]  # fmt: skip
    seen = dict.fromkeys(
        w for words in lists for text in words for w in text.split() if not w.startswith("{")
    )
    return list(seen)


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level, lower-casing; pads on the left and opens prompts with <s> through the chat template."""
    vocabulary = {w: i for i, w in enumerate((*SPECIAL, "<image>", *words()))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def processor(mean: Sequence[float], std: Sequence[float]) -> LlavaProcessor:
    """The processor that `AutoProcessor` will find beside the weights."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(mean), image_std=list(std), do_convert_rgb=True,
    )  # fmt: skip
    return LlavaProcessor(
        images, tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
