"""Loads models by name: shipped models, local folders, hub names."""

from __future__ import annotations

from logging import ERROR, getLogger
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from torch._dynamo import OptimizedModule
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging

from compress import hub
from compress.documents import Document, StoredCount, read, regular_file
from compress.memory import ran_out
from compress.models.caches import warn_if_untested
from compress.models.families import FAMILIES, family_in, refusal
from compress.models.mllm import MLLM, Embedded, Picture
from evosearch.registry import cut, unknown

Anyres = Literal["native", "fixed"]

FILES = "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"  # of a hub model: no code, no pickles
SETTINGS = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
)  # fmt: skip
CONVERTED = "llava-hf/llava-1.5-7b-hf or llava-hf/llava-v1.6-vicuna-7b-hf"  # from the original LLaVA
WEIGHTS = Path(__file__).parents[1] / "micro" / "weights"
MODELS: dict[str, Path] = {"micro": WEIGHTS / "micro"} | {
    path.name: path for path in sorted([*WEIGHTS.glob("micro-*"), *WEIGHTS.glob("busy*")])
}


def adapt(model: PreTrainedModel | MLLM, processor: Any = None, name: str = "") -> MLLM:
    """The adapter of a live transformers model (or the one given). ValueError for unknown families.

    Wrappers of `torch.compile` and of the peft library are removed.
    """
    if isinstance(model, MLLM):
        return model
    warn_if_untested()
    inner = _unwrapped(model)
    family = family_in(getattr(inner, "config", None))
    if family not in FAMILIES or not hasattr(inner, "generate"):
        raise ValueError(f"{type(inner).__name__} is not a supported multimodal model; {refusal(family)}")
    return FAMILIES[family](inner, processor, name)


def _unwrapped(model: Any) -> Any:
    """The model inside `torch.compile(model)` or inside a PeftModel, with which it shares its layers."""
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif hasattr(model, "peft_config") and callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()
        else:
            return model


def load(
    name: str = "micro",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    anyres: Anyres = "native",
) -> MLLM:
    """Load a shipped model, a local folder or a hub name, in evaluation mode.

    Weights are read from safetensors only, and no code shipped with them is run. `anyres="fixed"` gives every
    image of a LLaVA-NeXT the same number of visual tokens (`fix_grid`; papers call it fixed_2x2_nounpad).
    ValueError, with what to do next, if there is no such model or its family is not supported.
    """
    folder, config = _config(name)
    family = str(family_in(config))
    try:
        source = str(folder or hub.fetch(name, FILES))
        auto: Any = AutoModelForImageTextToText  # typed without the report
        model, report = auto.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        processor = FAMILIES[family].read_processor(source)
    except (OSError, ValueError) as error:
        raise ValueError(_cannot_load(name, error)) from error
    except SafetensorError as error:
        raise ValueError(f"cannot load model {name!r}: its weights are unreadable ({error})") from error
    except ImportError:
        raise
    except Exception as error:  # transformers and tokenizers raise errors of any type about bad files
        if ran_out(error):
            raise
        if isinstance(error, RuntimeError) and "mismatched" in str(error):
            raise ValueError(f"cannot load model {name!r}: weights and config differ in shape") from error
        why = cut(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"cannot load model {name!r}: its files make no model ({why})") from error
    if report["missing_keys"]:  # transformers would use random numbers instead
        missing = sorted(report["missing_keys"])
        raise ValueError(f"cannot load model {name!r}: {len(missing)} weights are missing, e.g. {missing[0]}")
    processor.tokenizer.padding_side = "left"
    mllm = adapt(model.eval().to(device), processor, name)
    if anyres == "fixed":
        mllm.fix_grid()
    return mllm


def family_of(name: str) -> str:
    """The `model_type` of a model; ValueError if there is no such model or its family is not supported."""
    return str(_config(name)[1].model_type)


def outline(source: str) -> MLLM:
    """The adapter of the model in a folder or of a hub name without its weights: shapes only."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    auto: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        model = auto.from_config(config)
    return adapt(model, FAMILIES[str(family_in(config))].read_processor(source), source)


def quiet() -> None:
    """Silence progress bars and messages of transformers, except errors, for the whole process."""
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel(ERROR)  # it logs every retry of a connection
    logging.disable_progress_bar()


def _config(name: str) -> tuple[Path | None, Any]:
    """The folder of a model name (None on the hub), and its configuration."""
    folder = _folder(name)
    try:
        for path in sorted(folder.iterdir()) if folder else ():
            if path.exists() and not path.is_dir():
                regular_file(path)
            if path.name in SETTINGS:  # of which transformers ignores some that it cannot read
                read(dict[str, Any], path)
        source = str(folder or hub.fetch(name, ["config.json"]))
        return folder, _read_config(Path(source))
    except (OSError, ValueError) as error:
        raise ValueError(_cannot_load(name, error)) from error


Layers = Annotated[int, Field(ge=1, le=1000)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]


class _Part(Document):
    """The type of a model, and the sizes that decide how much memory it takes."""

    model_type: str | None = None
    num_hidden_layers: Layers | None = None
    depth: Layers | None = None
    hidden_size: Size | None = None
    vocab_size: Size | None = None


class _Written(_Part, extra="allow"):
    """The fields of a config.json that are checked before transformers reads it."""

    text_config: _Part | None = None
    vision_config: _Part | None = None
    image_token_id: StoredCount = 0
    image_token_index: StoredCount = 0


def _read_config(folder: Path) -> Any:
    """The configuration in a folder; ValueError unless transformers knows it and its family is supported."""
    written = read(_Written, folder / "config.json")
    _check_family(written)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as problem:  # configuration classes raise various errors
        parts = [part.model_type for part in (written.text_config, written.vision_config) if part]
        strange = [kind for kind in parts if kind and kind not in CONFIG_MAPPING]
        why = unknown("model type", strange[0], CONFIG_MAPPING) if strange else cut(problem, 200)
        raise ValueError(f"its config.json is not valid ({why})") from problem
    _check_layer(config)
    return config


def _check_layer(config: Any) -> None:
    """ValueError if the projector reads a layer that the tower does not have."""
    layers = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
    wanted = getattr(config, "vision_feature_layer", None)
    for layer in wanted if isinstance(wanted, list | tuple) else [wanted]:
        if isinstance(layer, int) and isinstance(layers, int) and not -layers - 1 <= layer <= layers:
            raise ValueError(f"its vision_feature_layer is {layer}, but its tower has {layers} layers")


def _check_family(written: _Written) -> None:
    family = written.model_type
    if written.vision_config is None and any(key.startswith("mm_") for key in written.model_extra or {}):
        raise ValueError(
            f"its config.json is one of the original LLaVA code, whose weights have other names: load the "
            f"converted checkpoint instead, such as {CONVERTED}"
        )
    if family is None:
        raise ValueError(f"its config.json has no model_type; {refusal(None)}")
    if family not in FAMILIES:
        raise ValueError(f"it is a {cut(family)!r} model; {refusal(family)}")


def _cannot_load(name: str, error: Exception) -> str:
    return f"cannot load model {name!r}: {cut((str(error).splitlines() or [type(error).__name__])[0], 400)}"


def _folder(name: str) -> Path | None:
    """The folder of a model name; None for a name on the hub."""
    if name in MODELS:
        if not MODELS[name].is_dir():
            raise ValueError(
                f"the weights of the shipped model {name!r} are missing: "
                f"rebuild them with `make micro MODEL={name}`"
            )
        return MODELS[name]
    if Path(name).is_dir():
        return Path(name)
    if not hub.is_name(name):
        raise ValueError(f"{unknown('model', name, MODELS)}; else give a folder, or a hub name as owner/name")
    return None


__all__ = [
    "FAMILIES",
    "MLLM",
    "MODELS",
    "Anyres",
    "Embedded",
    "Picture",
    "adapt",
    "family_of",
    "load",
    "outline",
    "quiet",
]
