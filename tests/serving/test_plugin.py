"""Models that the plug-in has no class for: a method is refused, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.serving.plugin import CLASSES, SUPPORTED
from bench.serving.settings import VARIABLES
from tests.serving.conftest import WHY
from tests.tiny_families import onevision

pytest.importorskip("vllm", reason=WHY)

ASKED = {"evocomp": {"method": "grid", "keep": 5}}


def test_methods_are_refused_for_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import EngineArgs

    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    folder, small = str(onevision(tmp_path)), {"dtype": "float32", "max_model_len": 64}
    assert EngineArgs(folder, **small).create_engine_config().model_config.max_model_len == 64
    with pytest.raises(ValueError, match="llava_onevision has no class for vLLM"):
        EngineArgs(folder, hf_overrides=ASKED, **small).create_engine_config()
    monkeypatch.setenv("EVOCOMP_ALSO", "grid")
    with pytest.raises(ValueError, match="llava_onevision has no class for vLLM"):
        EngineArgs(folder, **small).create_engine_config()


def test_every_other_architecture_has_the_check_and_keeps_its_own() -> None:
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, Gemma4Config
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    checked = {name for name, check in MODELS_CONFIG_MAP.items() if check.__name__ == "Refusing"}
    assert ModelRegistry.get_supported_archs() - checked == CLASSES.keys()
    assert issubclass(MODELS_CONFIG_MAP["Gemma4ForConditionalGeneration"], Gemma4Config)
    assert len(SUPPORTED) == len(CLASSES)
