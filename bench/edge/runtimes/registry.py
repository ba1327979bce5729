"""Runtimes by name; a new one is a line here and a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.edge.bundle import Bundle
from bench.edge.decoder import FixedDecoder
from bench.edge.precision import Floats, Precision
from bench.edge.protocol import Protocol
from bench.edge.runner import Backend
from bench.edge.runtimes import gguf, llamacpp, ort
from bench.edge.runtimes import onnx as export


@dataclass(frozen=True)
class Runtime:
    """How a decoder is written for a runtime and run there."""

    title: str
    package: str  # that runs it
    extra: str  # of this distribution, which brings the package
    modules: tuple[str, ...]  # that have to be there
    files: str  # name of what is exported; runtimes that read the same share it
    export: Callable[[FixedDecoder, Protocol, Floats, Path], None]  # decoder, shapes, embeddings, folder
    open: Callable[[Bundle, int], Backend]  # folder, threads
    precision: Callable[[int], Precision]  # by the width of a head, where none is asked for
    check: Callable[[Precision], None]  # ValueError for one that it does not compute in


ORT = Runtime(
    title="ONNX Runtime CPU",
    package="onnxruntime",
    extra="edge",
    modules=("onnxruntime", "onnx", "onnxscript"),
    files="onnx",
    export=export.export_decoder,
    open=ort.OrtBackend,
    precision=ort.precision,
    check=ort.check,
)
LLAMA_CPP = Runtime(
    title="llama.cpp CPU",
    package="llama-cpp-python",
    extra="llamacpp",
    modules=("llama_cpp", "gguf", "onnxruntime", "onnx", "onnxscript"),
    files="gguf",
    export=gguf.export_decoder,
    open=llamacpp.LlamaCppBackend,
    precision=llamacpp.precision,
    check=llamacpp.check,
)
RUNTIMES = {
    "ort": ORT,
    "ort-static": replace(
        ORT, title="ONNX Runtime CPU, a graph per shape", open=partial(ort.OrtBackend, static=True)
    ),
    "llamacpp": LLAMA_CPP,
    "llamacpp-unpadded": replace(
        LLAMA_CPP,
        title="llama.cpp CPU, unpadded",
        open=partial(llamacpp.LlamaCppBackend, padded=False),
    ),
}
