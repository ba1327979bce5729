"""Write a model in the form that engines expect, that of official checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from compress.models.loading import MODELS

OLD, NEW = "vision_tower.", "vision_tower.vision_model."
VIDEOS = {  # the class of a processor that engines load even without videos
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
}


def renamed(name: str) -> str:
    """A weight's name with the prefix that transformers omits for CLIP towers."""
    return NEW + name.removeprefix(OLD) if name.startswith(OLD) and not name.startswith(NEW) else name


def export(source: Path, folder: Path) -> Path:
    """Copy a model's folder, with weights named as in official checkpoints; return the copy's folder.

    A family that reads videos gets a video processor, if it has none.
    """
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        save_file({renamed(name): tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    kind, path = VIDEOS.get(config["model_type"]), folder / "video_preprocessor_config.json"
    if kind is not None and not path.exists():
        vision = config["vision_config"]
        sizes = {name: vision[name] for name in ("patch_size", "temporal_patch_size")}
        merged = {"merge_size": vision["spatial_merge_size"]}
        path.write_text(json.dumps({"video_processor_type": kind, **sizes, **merged}))
    return folder


def servable(model: str, scratch: Path) -> str:
    """The model name for an engine: a shipped model is written to `scratch`, other names are unchanged."""
    if model not in MODELS:
        return model
    return str(export(MODELS[model], scratch / model))
