"""Features of samples: the LLM's embeddings of image and prompt, kept in memory, on disk, or recomputed.

All three give the same numbers, since all round to float16.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from compress.compressor.network import Tokens
from compress.documents import regular_file
from compress.fingerprint import fingerprint
from compress.models.loading import MLLM
from compress.samples import Sample

Where = Literal["memory", "disk", "recompute"]
TokenReader = Callable[[], Tokens]
Say = Callable[[str], object]


class Features(ABC):
    """Features [N, D] and [T, D] of samples, float16 on the CPU."""

    def __init__(self, mllm: MLLM):
        self.mllm = mllm

    def embed(self, sample: Sample) -> Tokens:
        """Compute the features of a sample; ValueError if they are not finite."""
        embedded = self.mllm.embed(sample.visual_at(self.mllm.image_side), sample.question)
        prompt = torch.ones(embedded.prompt, dtype=torch.bool, device=embedded.embeds.device)
        prompt[embedded.visual] = False
        before = int(prompt[: int(embedded.visual[0])].sum())
        parts = embedded.embeds[embedded.visual], embedded.embeds[: embedded.prompt][prompt]
        visual, text = (part.to("cpu", torch.float16) for part in parts)
        if not (visual.isfinite().all() and text.isfinite().all()):
            raise ValueError(f"sample {sample.id!r}: its embeddings are not finite, or beyond float16")
        return Tokens(visual, text, before)

    @abstractmethod
    def announce(self, samples: Sequence[Sample], say: Say) -> None:
        """Report the required space, estimated from one sample; ValueError if it is not available."""

    @abstractmethod
    def keep(self, sample: Sample, mine: bool) -> TokenReader:
        """Return a function that reads a sample's features, computed now if this process must (`mine`)."""

    def visual_tokens(self, source: TokenReader) -> int | None:
        """Return the number of visual tokens of stored features without reading them; None if unknown."""
        return None


class Recomputed(Features):
    """Features computed at every use of a sample: slow, but needs no space."""

    def announce(self, samples: Sequence[Sample], say: Say) -> None:
        say(f"features of {len(samples):,} samples: recomputed whenever they are used")

    def keep(self, sample: Sample, mine: bool) -> TokenReader:
        return partial(self.embed, sample)


class InMemory(Features):
    """Features of all samples, held in memory by every process."""

    def announce(self, samples: Sequence[Sample], say: Say) -> None:
        need, free = _size(self.embed(samples[0])) * len(samples), psutil.virtual_memory().available
        say(f"features of {len(samples):,} samples: about {_bytes(need)} of memory in every process")
        if need > free:
            raise ValueError(
                f"features of {len(samples):,} samples need about {_bytes(need)} of memory, and "
                f"{_bytes(free)} are free: keep them on disk, or recompute them"
            )

    def keep(self, sample: Sample, mine: bool) -> TokenReader:
        tokens = self.embed(sample)
        return lambda: tokens

    def visual_tokens(self, source: TokenReader) -> int:
        return len(source().visual)


class OnDisk(Features):
    """One file per sample, named by model, image and question, so that later training runs can reuse it.

    Files are written atomically, so an interrupted run can be resumed.
    """

    def __init__(self, mllm: MLLM, folder: str | os.PathLike[str]):
        super().__init__(mllm)
        self.folder = Path(folder)

    def announce(self, samples: Sequence[Sample], say: Say) -> None:
        missing = [sample for sample in samples if not self._path(sample).exists()]
        there = f"{len(samples) - len(missing):,} of {len(samples):,} samples are in {self.folder}"
        if not missing:
            say(f"features: {there}")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        need, free = _size(self.embed(missing[0])) * len(missing), shutil.disk_usage(self.folder).free
        say(f"features: {there}, the others need about {_bytes(need)} of {_bytes(free)} free")
        if need > free:
            raise ValueError(
                f"features of {len(missing):,} samples need about {_bytes(need)}, and {_bytes(free)} are "
                f"free at {self.folder}: choose another folder, or recompute them"
            )

    def keep(self, sample: Sample, mine: bool) -> TokenReader:
        path = self._path(sample)
        if mine and not _readable(path):
            tokens = self.embed(sample)
            content = save(
                {"visual": tokens.visual.contiguous(), "text": tokens.text.contiguous()},
                metadata={"before": str(tokens.before), "sample": sample.id},
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, content)
        return partial(_read, path)

    def visual_tokens(self, source: TokenReader) -> int:
        assert isinstance(source, partial)
        with safe_open(regular_file(source.args[0]), "pt") as file:
            return int(file.get_slice("visual").get_shape()[0])

    def _path(self, sample: Sample) -> Path:
        told = json.dumps([self._reader, sample.question, sample.picture_digest])
        address = hashlib.sha256(told.encode()).hexdigest()
        return self.folder / address[:2] / f"{address}.safetensors"

    @cached_property
    def _reader(self) -> str:
        """An identifier of the model, the settings of its processor, and the code that embeds."""
        processor = self.mllm.processor
        pixels = getattr(processor, "image_processor", None)
        how = [pixels.to_dict() if pixels else None, getattr(processor, "chat_template", None)]
        code = fingerprint(type(self), type(self.mllm))
        return f"{self.mllm.fingerprint()} {code} {json.dumps(how, sort_keys=True, default=str)}"


def open_features(where: Where, mllm: MLLM, folder: str | os.PathLike[str] | None) -> Features:
    """Return features stored as `where` names; `folder` is allowed only for features on disk."""
    if where not in get_args(Where):
        raise ValueError(f"features={where!r}: choose one of {', '.join(get_args(Where))}")
    if where == "disk":
        return OnDisk(mllm, folder or cache_folder())
    if folder is not None:
        raise ValueError(f"features={where!r} need no folder: leave it out, or keep them on disk")
    return Recomputed(mllm) if where == "recompute" else InMemory(mllm)


def cache_folder() -> Path:
    """Return the default folder of features on disk."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "evocomp" / "features"


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically; other runs may write the same file at the same time."""
    handle, part = tempfile.mkstemp(".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror or str(problem), str(path)) from problem
    finally:
        Path(part).unlink(missing_ok=True)


def _readable(path: Path) -> bool:
    try:
        with safe_open(regular_file(path), "pt") as file:
            return "before" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _read(path: Path) -> Tokens:
    try:
        with safe_open(regular_file(path), "pt") as file:
            before = int(file.metadata()["before"])
            return Tokens(file.get_tensor("visual"), file.get_tensor("text"), before)
    except (OSError, SafetensorError) as problem:
        raise ValueError(
            f"{path}: unreadable ({problem}); run again to make it anew. All processes need the same folder"
        ) from problem


def _size(tokens: Tokens) -> int:
    return tokens.visual.nbytes + tokens.text.nbytes


def _bytes(count: float) -> str:
    units = "bytes", "kB", "MB", "GB", "TB"
    power = min(int(math.log10(max(count, 1)) / 3), len(units) - 1)
    return f"{count / 1000**power:.3g} {units[power]}"
