"""Runtimes by name; a new one needs an entry below and a file."""

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
    """A runtime: functions that write a decoder for it and run it."""

    title: str
    package: str  # Python package of the runtime
    extra: str  # extra of this distribution that installs the package
    modules: tuple[str, ...]  # required modules
    files: str  # name of the exported files; runtimes that read the same files share it
    export: Callable[[FixedDecoder, Protocol, Floats, Path], None]  # decoder, shapes, embeddings, folder
    open: Callable[[Bundle, int], Backend]  # folder, threads
    precision: Callable[[int], Precision]  # default, by the width of a head
    check: Callable[[Precision], None]  # ValueError for an unsupported one


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
