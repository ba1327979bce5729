"""The plug-in for vLLM, entry point `vllm.general_plugins`: classes of ours for families of models.

They do what vLLM's own do until a method is asked for, by --hf-overrides or by environment variables.
"""

from __future__ import annotations

CLASSES = {
    "LlavaForConditionalGeneration": "bench.serving.engine:CompressedLlava",
    "LlavaNextForConditionalGeneration": "bench.serving.engine:CompressedLlavaNext",
    "Qwen2VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen25VL",
    "Qwen3VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen3VL",
}


def register() -> None:
    """Name our classes to vLLM; they are imported when such a model is loaded."""
    from vllm import ModelRegistry

    for architecture, place in CLASSES.items():
        ModelRegistry.register_model(architecture, place)
