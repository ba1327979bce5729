"""The adapters, one file per family; a new family needs a file and an entry in `FAMILIES`."""

from typing import Any

from compress.models.gemma3 import Gemma3
from compress.models.gemma4 import Gemma4
from compress.models.glm4v import Glm4V, Glm46V
from compress.models.idefics3 import Idefics3
from compress.models.internvl import InternVL
from compress.models.llava import Llava
from compress.models.llava_next import LlavaNext
from compress.models.llava_next_video import LlavaNextVideo
from compress.models.llava_onevision import LlavaOnevision
from compress.models.mistral3 import Mistral3
from compress.models.mllm import MLLM
from compress.models.qwen2_5_vl import Qwen25VL
from compress.models.qwen2_vl import Qwen2VL
from compress.models.qwen3_5 import Qwen35
from compress.models.qwen3_vl import Qwen3VL
from compress.models.smolvlm import SmolVLM

FAMILIES: dict[str, type[MLLM]] = {
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_next_video": LlavaNextVideo,
    "llava_onevision": LlavaOnevision,
    "internvl": InternVL,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VL,
    "qwen3_5": Qwen35,
    "gemma3": Gemma3,
    "gemma4": Gemma4,
    "glm4v": Glm4V,
    "glm46v": Glm46V,
    "idefics3": Idefics3,
    "smolvlm": SmolVLM,
    "mistral3": Mistral3,
    "llava with pixtral": Mistral3,  # `model_type` of the model and of its tower
}

MISSING: dict[str, str] = {  # why a well-known family has no adapter
    "internvl_chat": "its code lies beside its weights and is not run; load the conversion named -hf",
    "kimi_k25": "frames that its tower pools over time are not handled",
    "llama4": "attention in chunks and complex rotary tables are not handled",
    "llava_onevision1_5": "its code lies beside its weights and is not run",
    "minicpmv": "its code lies beside its weights and is not run",
    "paligemma": "prompts whose text attends to later text, and positions from 1, are not handled",
}


def family_in(config: Any) -> str | None:
    """The family of a configuration: its `model_type`, with the tower's if `FAMILIES` names both."""
    kind = getattr(config, "model_type", None)
    both = f"{kind} with {getattr(getattr(config, 'vision_config', None), 'model_type', None)}"
    return both if both in FAMILIES else kind


def refusal(family: str | None) -> str:
    """The reason why a `model_type` has no adapter, if known, and the supported ones."""
    why = MISSING.get(family or "")
    supported = f"supported: {', '.join(sorted(FAMILIES))}"
    return supported if why is None else f"{why}; {supported}"
