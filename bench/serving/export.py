"""Write a model with the names of weights that engines expect: those of official checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from compress.models.loading import MODELS

OLD, NEW = "vision_tower.", "vision_tower.vision_model."


def renamed(name: str) -> str:
    """A weight's name with the part that transformers leaves out for CLIP towers."""
    return NEW + name.removeprefix(OLD) if name.startswith(OLD) and not name.startswith(NEW) else name


def export(source: Path, folder: Path) -> Path:
    """Copy a model's folder, its weights under the names of official checkpoints; the copy's folder."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        save_file({renamed(name): tensor for name, tensor in weights.items()}, path, {"format": "pt"})
    return folder


def servable(model: str, scratch: Path) -> str:
    """What an engine is to load for a model's name: shipped ones are written to `scratch`, others stay."""
    if model not in MODELS:
        return model
    return str(export(MODELS[model], scratch / model))
