"""Torch modules -> ONNX graphs of fixed shapes that share one file of weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.edge.bundle import COMPRESSOR, DECODER, VISION
from bench.edge.decoder import FixedDecoder
from bench.edge.extras import optional
from bench.edge.parts import FixedCompressor, FixedVision
from bench.edge.precision import Floats
from bench.edge.protocol import Protocol, variant

OPSET = 21


def export_vision(vision: FixedVision, pixels: tuple[int, int], folder: Path) -> None:
    """Write `VISION` for images of this height and width."""
    _export(vision, (torch.randn(1, 3, *pixels),), ["pixels"], ["visual"], folder / VISION)


def export_compressor(compressor: FixedCompressor, length: int, folder: Path) -> None:
    """Write `COMPRESSOR` for prompts of `length` rows."""
    width = compressor.compressor.width
    example = (torch.randn(length, width), torch.ones(length))
    _export(compressor, example, ["rows", "present"], ["logits"], folder / COMPRESSOR)


def export_decoder(decoder: FixedDecoder, protocol: Protocol, embeddings: Floats, folder: Path) -> None:
    """Write `DECODER` with symbolic lengths, its weights, and one graph per variant that refers to them.

    The graphs share the weights as on the phone. The host looks up embeddings, the graphs do not.
    """
    onnx, tools = (optional(name, "edge") for name in ("onnx", "onnxruntime.tools.onnx_model_utils"))
    names = list(decoder.empty_cache(0))
    chunk, context = torch.export.Dim("chunk"), torch.export.Dim("context")
    lengths = ({1: chunk}, {1: chunk}, {0: chunk, 1: chunk}, {1: context}, ({2: context},) * len(names))
    _export(
        decoder,
        example(decoder, 4, 6),
        ["embeds", "positions", "mask", "past_mask", *names],
        ["logits", *(f"new_{name}" for name in names)],
        folder / DECODER,
        lengths,
    )
    for rows, size in protocol.variants:
        fixed = onnx.load(folder / DECODER, load_external_data=False)
        tools.make_dim_param_fixed(fixed.graph, "chunk", rows)
        tools.make_dim_param_fixed(fixed.graph, "context", size)
        onnx.save(fixed, folder / f"{variant(rows, size)}.onnx")


def example(decoder: FixedDecoder, rows: int, context: int) -> tuple[Tensor, ...]:
    """Example inputs of the decoder, all distinct tensors, since the exporter would merge shared ones."""
    return (
        torch.randn(1, rows, decoder.shape.hidden),
        torch.arange(rows)[None],
        torch.zeros(rows, rows),
        torch.zeros(1, context),
        *map(torch.from_numpy, decoder.empty_cache(context).values()),
    )


def _export(
    module: nn.Module, inputs: tuple[Any, ...], names: Sequence[str], outputs: Sequence[str], path: Path,
    lengths: tuple[Any, ...] | None = None,
) -> None:  # fmt: skip
    """Write one graph and a file with its weights; runtimes optimise graphs themselves, and faster."""
    optional("onnxscript", "edge")  # torch needs it for the export
    with warnings.catch_warnings(), torch.no_grad(), quiet():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), inputs, input_names=names, output_names=outputs, dynamo=True,
            opset_version=OPSET, dynamic_shapes=lengths, optimize=False, verbose=False,
        )  # fmt: skip
    assert program is not None  # only the old exporter returns None, when it writes a file itself
    for node in program.model.graph:
        node.metadata_props.clear()  # source traces, which are most of the file
    program.save(path, external_data=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch's notes on operators of libraries that are not installed."""
    logger = getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
