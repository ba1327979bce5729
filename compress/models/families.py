"""The adapters, one file per family; a new one is a file and a line below, under its `model_type`."""

from compress.models.internvl import InternVL
from compress.models.llava import Llava
from compress.models.llava_next import LlavaNext
from compress.models.llava_onevision import LlavaOnevision
from compress.models.mllm import MLLM
from compress.models.qwen2_5_vl import Qwen25VL
from compress.models.qwen2_vl import Qwen2VL
from compress.models.qwen3_vl import Qwen3VL

FAMILIES: dict[str, type[MLLM]] = {
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_onevision": LlavaOnevision,
    "internvl": InternVL,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VL,
}
