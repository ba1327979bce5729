"""A folder with all files for a device: graphs, weights, the table of embeddings, and their settings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bench.edge.precision import Floats, Precision, empty_cache
from bench.edge.protocol import Protocol
from compress.documents import Positive, read, regular_file
from compress.files import replacing
from evosearch.registry import cut

RANDOM = "random"  # stored instead of a fingerprint
META, EMBEDDINGS = "edge.json", "embeddings.npy"
VISION, COMPRESSOR, DECODER, GGUF = "vision.onnx", "compressor.onnx", "decoder.onnx", "decoder.gguf"


@dataclass(frozen=True)
class BundleSettings:
    """The settings of an exported folder; equal settings give equal files."""

    model: str
    weights: str  # a fingerprint, or `RANDOM`
    files: str  # kind of the files: `Runtime.files`
    precision: str
    chunk: Positive
    contexts: Annotated[tuple[Positive, ...], Field(min_length=1)]
    tokens: Positive  # visual tokens of the untouched image
    text: Positive  # maximum of other tokens in the prompt
    reads_text: bool  # whether the compressor reads the text
    layers: Positive
    of_layers: Positive  # layers of the whole model
    kv_heads: Positive
    head_dim: Positive
    code: str = ""  # a fingerprint of the code that wrote the files

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.chunk, self.contexts)

    @property
    def length(self) -> int:
        """Rows of the compressor's input."""
        return self.tokens + self.text * self.reads_text

    @property
    def random(self) -> bool:
        """True if the weights are random."""
        return self.weights == RANDOM

    @property
    def what(self) -> str:
        """A description of the model and of the decoder layers in use."""
        slice = f", first {self.layers} of {self.of_layers} decoder layers" * (self.layers < self.of_layers)
        return self.model + slice

    def context(self, keep: int, words: int, new: int) -> int:
        """Rows of the cache for this prompt; ValueError if it does not fit into a fixed shape."""
        if not 1 <= keep <= self.tokens:
            raise ValueError(
                f"keep={keep}: choose between 1 and the {self.tokens} visual tokens of {self.model}"
            )
        if words > self.text:
            raise ValueError(
                f"the prompt has {words} text tokens and the compressor's input has room for {self.text}: "
                f"raise --text"
            )
        return self.protocol.context(keep + words, new, keep < self.tokens)

    def empty_cache(self, context: int) -> dict[str, NDArray[Any]]:
        precision = Precision.parse(self.precision)
        return empty_cache(precision, self.layers, self.kv_heads, context, self.head_dim)


@dataclass(frozen=True)
class Bundle:
    """An exported folder; `Bundle.open` reads one."""

    folder: Path
    settings: BundleSettings

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Open a folder; ValueError, with advice, if it has no finished export."""
        try:
            return cls(folder, read(BundleSettings, folder / META))
        except FileNotFoundError:
            raise ValueError(f"{folder}: nothing was exported here ({META} is missing)") from None
        except ValueError as problem:
            raise ValueError(f"{problem}; export again") from problem

    def finish(self) -> Bundle:
        """Mark the export as complete."""
        with replacing(self.folder / META) as part:
            part.write_text(json.dumps(asdict(self.settings), indent=1) + "\n")
        return self

    @cached_property
    def embeddings(self) -> Floats:
        """[V, H], read from disk row by row."""
        path = self.folder / EMBEDDINGS
        try:
            table: Floats = np.load(regular_file(path), mmap_mode="r")
        except (OSError, ValueError, EOFError) as problem:
            raise ValueError(f"{path}: unreadable ({cut(problem, 200)}); export again") from problem
        if table.ndim != 2 or table.dtype != np.float32:
            raise ValueError(f"{path}: it must be a float32 table of two dimensions; export again")
        return table

    def size(self, *patterns: str) -> int:
        """Total bytes of the files that match the patterns."""
        return sum(path.stat().st_size for one in patterns for path in self.folder.glob(one))
