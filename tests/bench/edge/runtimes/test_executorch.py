"""ExecuTorch beside torch; skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.edge.precision import Precision
from bench.edge.runtimes.executorch import ExecuTorchBackend, check
from bench.edge.timing import relative


@pytest.fixture
def bundle(folder):
    pytest.importorskip("executorch")
    return folder("executorch", "W32A32KV8")


def test_logits_are_those_of_the_same_weights_in_torch(bundle, in_torch, prompt, say):
    ours = say(ExecuTorchBackend(bundle, threads=1).runner(48), prompt)
    assert relative(ours, say(in_torch("W32A32KV8"), prompt)) < 1e-3  # int8 may fall to the other side


def test_both_contexts_say_the_same_and_forget_what_was_before(bundle, prompt, say):
    backend = ExecuTorchBackend(bundle, threads=1)
    first = say(backend.runner(48), prompt)
    say(backend.runner(32), prompt[::-1].copy())
    assert np.allclose(say(backend.runner(32), prompt), first, atol=1e-4)


def test_a_program_per_shape_is_written(bundle):
    names = ["1t32c.pte", "1t48c.pte", "8t32c.pte", "8t48c.pte"]
    assert sorted(path.name for path in bundle.folder.glob("*.pte")) == names


@pytest.mark.parametrize("label", ["W4A8KV8", "W4A32KV32", "W32A32KV16"])
def test_what_it_does_not_compute_in_is_refused(label: str):
    with pytest.raises(ValueError, match="computes here in W32A32"):
        check(Precision.parse(label))
