"""A Llama of random weights that reacts to its context, on every runtime at once: prompts are numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.edge.bundle import RANDOM, Bundle, BundleSettings
from bench.edge.decoder import FixedDecoder
from bench.edge.precision import Floats, Precision
from bench.edge.protocol import Protocol
from bench.edge.reference import TorchRunner
from bench.edge.runner import Runner
from bench.edge.runtimes.registry import RUNTIMES

PROTOCOL = Protocol(8, (48, 32))
ROWS, NEW = 21, 3  # three chunks, the first with three rows of padding, and words behind them


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """Two layers, four heads of width 32 that share two of keys and values."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
            else:
                weight.uniform_(0.5, 1.5)
    return made


@pytest.fixture(scope="session")
def prompt() -> Floats:
    """Rows of a prompt and of the words behind it."""
    return np.random.default_rng(0).standard_normal((ROWS + NEW, 64)).astype(np.float32)


def said(runner: Runner, rows: Floats, positions: Any = None) -> Floats:
    """Logits [1 + NEW, V] of a prompt and of the words behind it."""
    places = np.arange(len(rows)) if positions is None else positions
    front = len(rows) - NEW
    first = runner.prefill(rows[:front], places[:front])
    return np.stack([first, *(runner.decode(rows[at], int(places[at])) for at in range(front, len(rows)))])


@pytest.fixture(scope="session")
def say() -> Callable[..., Floats]:
    return said


@pytest.fixture(scope="session")
def settings(llama: LlamaForCausalLM) -> Callable[..., BundleSettings]:
    """What a folder with this decoder says of itself."""

    def make(precision: str, files: str = "onnx", protocol: Protocol = PROTOCOL) -> BundleSettings:
        return BundleSettings(
            model="llama", weights=RANDOM, files=files, precision=precision, chunk=protocol.chunk,
            contexts=protocol.contexts, tokens=18, text=6, reads_text=True, layers=2, of_layers=2, kv_heads=2,
            head_dim=32,
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def fixed(llama: LlamaForCausalLM) -> Callable[[str], FixedDecoder]:
    """The decoder of fixed shapes; one with an odd cache is made with a float one, as the reference is."""

    def make(precision: str) -> FixedDecoder:
        wanted = precision.replace("KV16", "KV32")
        return FixedDecoder(llama.model, llama.lm_head, Precision.parse(wanted))

    return make


@pytest.fixture(scope="session")
def in_torch(
    fixed: Callable[[str], FixedDecoder], settings: Callable[..., BundleSettings]
) -> Callable[..., TorchRunner]:
    def make(precision: str, protocol: Protocol = PROTOCOL) -> TorchRunner:
        made = settings(precision.replace("KV16", "KV32"), protocol=protocol)
        return TorchRunner(made, fixed(precision), protocol.contexts[0])

    return make


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, fixed: Callable[[str], FixedDecoder],
    settings: Callable[..., BundleSettings],
) -> Callable[[str, str], Bundle]:  # fmt: skip
    """The decoder as exported for a runtime in a precision, once."""
    made: dict[tuple[str, str], Bundle] = {}

    def export(runtime: str, precision: str) -> Bundle:
        kind = RUNTIMES[runtime]
        key = kind.files, precision
        if key not in made:
            place: Path = tmp_path_factory.mktemp("edge")
            words = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
            kind.export(fixed(precision), PROTOCOL, words, place)
            made[key] = Bundle(place, settings(precision, kind.files)).finish()
        return made[key]

    return export
