"""The plug-in for vLLM, entry point `vllm.general_plugins`: our classes for families of models.

They behave like vLLM's own until a method is requested, by --hf-overrides or by environment variables. For
other models, a method is refused.
"""

from __future__ import annotations

from typing import Any

from bench.serving.settings import FIELD, read

CLASSES = {
    "LlavaForConditionalGeneration": "bench.serving.engine:CompressedLlava",
    "LlavaNextForConditionalGeneration": "bench.serving.engine:CompressedLlavaNext",
    "Qwen2VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen25VL",
    "Qwen3VLForConditionalGeneration": "bench.serving.qwen:CompressedQwen3VL",
}
SUPPORTED = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # families of these classes


def register() -> None:
    """Register our classes, which vLLM imports when it loads such a model; other models refuse a method."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    for architecture, place in CLASSES.items():
        ModelRegistry.register_model(architecture, place)
    for architecture in ModelRegistry.get_supported_archs() - CLASSES.keys():
        theirs = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)
        MODELS_CONFIG_MAP[architecture] = refusing(theirs)


def refusing(theirs: Any) -> Any:
    """A subclass of vLLM's check of an architecture's settings that first refuses a method."""

    class Refusing(theirs):
        @classmethod
        def verify_and_update_config(cls, vllm_config: Any) -> None:
            model = vllm_config.model_config
            if model.runner_type != "draft":  # methods apply to the target model of a draft model
                refuse(model.hf_config)
            super().verify_and_update_config(vllm_config)

    return Refusing


def refuse(config: Any) -> None:
    """ValueError if a method is requested."""
    if read(getattr(config, FIELD, None)) is not None:
        raise ValueError(without_class(config.model_type))


def without_class(family: str) -> str:
    return (
        f"{family} has no class for vLLM that a method acts in: ask for none, or serve one of "
        f"{', '.join(SUPPORTED)}"
    )
