"""The plug-in of lmms-eval: `lmms-eval eval --model evocomp`. lmms-eval imports this at every start."""

from typing import Any

NAME = "evocomp"


def manifests() -> Any:
    """What lmms-eval's entry point `lmms_eval.models` is given: a name and where its class lies."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path="bench.lmms.model.CompressedModel")
