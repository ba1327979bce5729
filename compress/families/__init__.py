"""The adapters, one file per family; a new one is a file and a line below, under its `model_type`."""

from compress.families.llava import Llava
from compress.families.llava_next import LlavaNext
from compress.families.qwen2_5_vl import Qwen25VL
from compress.mllm import MLLM

FAMILIES: dict[str, type[MLLM]] = {"llava": Llava, "llava_next": LlavaNext, "qwen2_5_vl": Qwen25VL}
