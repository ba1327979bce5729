"""llama.cpp through llama-cpp-python's low-level calls: one copy of the weights for all contexts.

Its own image code is not used: vision tower and compressor run on ONNX Runtime.
"""

from __future__ import annotations

import ctypes
from functools import cache, cached_property
from logging import CRITICAL, getLogger
from typing import Any

import numpy as np

from bench.edge.bundle import GGUF, Bundle
from bench.edge.extras import optional
from bench.edge.precision import Floats, Ints, Precision
from bench.edge.protocol import Chunk, Protocol
from bench.edge.runner import Runner
from bench.edge.runtimes.ort import OrtParts

PROMPT, PADDING = 0, 1  # sequences


class LlamaCppBackend(OrtParts):
    """The decoder on llama.cpp's CPU kernels.

    `padded` pads prompts to whole chunks, which a phone requires and llama.cpp does not. Its positions have
    to be consecutive, so kept tokens cannot keep theirs.
    """

    gaps = False

    def __init__(self, bundle: Bundle, threads: int = 0, padded: bool = True):
        super().__init__(bundle, threads)
        self.padded = padded
        self._runners: dict[int, LlamaCppRunner] = {}

    def runner(self, context: int) -> LlamaCppRunner:
        if context not in self._runners:
            precision, protocol = Precision.parse(self.label), self.bundle.settings.protocol
            self._runners[context] = LlamaCppRunner(
                self._model, protocol, context, precision.cache, self.threads, self.padded
            )
        return self._runners[context]

    @cached_property
    def _model(self) -> Any:
        library = low_level()
        parameters = library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        path = self.bundle.folder / GGUF
        model = library.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise ValueError(f"llama.cpp cannot load {path}: export again")
        return model


class LlamaCppRunner(Runner):
    """One context of a loaded model. It is never freed, like the model itself."""

    def __init__(self, model: Any, protocol: Protocol, context: int, cache: int, threads: int, padded: bool):
        self.library, self.protocol, self.padded = low_level(), protocol, padded
        library = self.library
        parameters = library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = context, 2, True
        parameters.n_batch = parameters.n_ubatch = protocol.chunk
        if threads:
            parameters.n_threads = parameters.n_threads_batch = threads
        kinds = {8: library.GGML_TYPE_Q8_0, 16: library.GGML_TYPE_F16, 32: library.GGML_TYPE_F32}
        parameters.type_k = parameters.type_v = kinds[cache]
        parameters.flash_attn_type = int(cache == 8)  # an int8 value cache needs it; off is exact
        self.width = library.llama_model_n_embd(model)
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
        self.context = library.llama_init_from_model(model, parameters)
        if not self.context:
            raise ValueError(
                f"llama.cpp makes no context of {context} rows with a KV{cache} cache for this model: its "
                f"int8 cache needs heads whose width is a multiple of 32; try --precision W4A8KV16"
            )
        rows = library.llama_model_n_layer(model) * library.llama_model_n_head_kv(model) * context
        width = self.width // library.llama_model_n_head(model)
        self.cache_bytes = rows * 2 * width * {8: 34, 16: 64, 32: 128}[cache] // 32  # bytes of 32 numbers
        self.batch = library.llama_batch_init(protocol.chunk, self.width, 1)

    def prefill(self, rows: Floats, positions: Ints) -> Floats:
        memory = self.library.llama_get_memory(self.context)
        self.library.llama_memory_clear(memory, False)
        logits = np.empty(0, np.float32)
        for chunk in self.protocol.layout(len(rows)):
            pad = chunk.pad if self.padded else 0
            logits = self._read(Chunk(pad, chunk.start, chunk.stop), rows, positions)
            if pad:
                self.library.llama_memory_seq_rm(memory, PADDING, -1, -1)
        return logits

    def decode(self, row: Floats, position: int) -> Floats:
        return self._read(Chunk(0, 0, 1), row[None], np.array([position]))

    def _read(self, chunk: Chunk, rows: Floats, positions: Ints) -> Floats:
        """Read a chunk. Padding is a sequence of its own: it is computed, but no other row attends to it."""
        size, batch = chunk.pad + chunk.stop - chunk.start, self.batch
        embeds = np.zeros((size, self.width), np.float32)
        embeds[chunk.pad :] = rows[chunk.start : chunk.stop]
        ctypes.memmove(batch.embd, embeds.ctypes.data, embeds.nbytes)
        batch.n_tokens = size
        for place in range(size):
            real = place - chunk.pad
            batch.pos[place] = int(positions[chunk.start + real]) if real >= 0 else place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, PROMPT if real >= 0 else PADDING
            batch.logits[place] = place == size - 1
        if status := self.library.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode failed with status {status}")
        logits = self.library.llama_get_logits_ith(self.context, size - 1)
        return np.ctypeslib.as_array(logits, (self.vocabulary,)).copy()


def precision(head: int) -> Precision:
    """The default precision for heads of width `head`: an int8 cache needs blocks of 32."""
    return Precision(4, 8, 8 if head % 32 == 0 else 16)


def check(precision: Precision) -> None:
    """ValueError for a precision that this backend does not support."""
    if (precision.weights, precision.activations) not in ((4, 8), (32, 32)):
        raise ValueError(f"{precision.label}: llama.cpp computes in W4A8 or W32A32")


@cache
def low_level() -> Any:
    """The C functions, initialised, with llama.cpp's log switched off: our code reports errors."""
    library = optional("llama_cpp.llama_cpp", "llamacpp")
    getLogger("llama-cpp-python").setLevel(CRITICAL + 1)
    library.llama_backend_init()
    return library
