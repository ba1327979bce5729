"""The plug-in of lmms-eval: `lmms-eval eval --model evocomp`. lmms-eval imports this at every start."""

from typing import Any

NAME = "evocomp"


def manifests() -> Any:
    """Return the model's name and the path of its class, for lmms-eval's entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(NAME, simple_class_path="bench.lmms.model.CompressedModel")
