"""llama.cpp beside torch; skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.edge.precision import Precision
from bench.edge.runtimes.llamacpp import LlamaCppBackend, check
from bench.edge.timing import relative

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

TOLERANCES = {"W32A32KV32": 1e-4, "W32A32KV16": 3e-2, "W32A32KV8": 3e-2, "W4A8KV8": 6e-2}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), TOLERANCES.items())
def test_logits_are_those_of_the_same_weights_in_torch(
    precision: str, tolerance: float, padded: bool, folder, in_torch, prompt, say
):
    backend = LlamaCppBackend(folder("llamacpp", precision), threads=1, padded=padded)
    assert relative(say(backend.runner(48), prompt), say(in_torch(precision), prompt)) < tolerance


def test_padding_is_gone_behind_its_chunk(folder, prompt, say):
    bundle = folder("llamacpp", "W32A32KV32")
    padded, plain = (LlamaCppBackend(bundle, threads=1, padded=one).runner(32) for one in (True, False))
    assert relative(say(padded, prompt), say(plain, prompt)) < 1e-5
    first = say(padded, prompt)
    say(padded, prompt[::-1].copy())
    assert np.allclose(say(padded, prompt), first, atol=1e-5)


def test_the_context_is_filled_to_its_last_row(folder, prompt):
    runner = LlamaCppBackend(folder("llamacpp", "W32A32KV32"), threads=1).runner(32)
    runner.prefill(np.concatenate([prompt, prompt[:7]]), np.arange(31))
    runner.decode(prompt[0], 31)


@pytest.mark.parametrize("label", ["W4A32KV8", "W4A32KV32"])
def test_what_it_does_not_compute_in_is_refused(label: str):
    with pytest.raises(ValueError, match="computes in W4A8 or W32A32"):
        check(Precision.parse(label))
