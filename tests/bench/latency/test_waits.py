from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baselines import METHODS
from bench.latency.waits import counting_waits
from compress.attach.session import attach
from compress.base import Selector
from compress.compressor.network import Compressor
from compress.models.loading import MLLM
from tests.methods import OF_IMAGES

CPU = torch.device("cpu")


def waits(call) -> int:
    with counting_waits(CPU) as found:
        call()
    return found[0]


def test_reading_values_is_a_wait_and_arithmetic_is_none():
    x, index, mask = torch.arange(6.0), torch.tensor([2, 4]), torch.tensor([True] * 6)
    for call in (x.sum().item, x.tolist, x.cpu, mask.nonzero, lambda: x[mask], lambda: x[index[0]],
                 lambda: bool(mask.any()), lambda: int(x[0]), lambda: torch.tensor([1, 2]),
                 lambda: torch.where(mask), index.bincount):  # fmt: skip
        assert waits(call) == 1
    for call in (lambda: x @ x, lambda: x[index], lambda: x[2:4], lambda: torch.where(mask, x, 0.0),
                 lambda: x.sort().values[:3], lambda: x.new_zeros(6).index_add(0, index, x[:2]),
                 lambda: torch.full((2,), 3), lambda: len(x)):  # fmt: skip
        assert waits(call) == 0


def method(name: str, mllm: MLLM) -> Selector:
    if name in ("evocomp", "evocomp+"):
        return METHODS[name](Compressor.from_decoder(mllm.decoder).eval())  # type: ignore[call-arg]
    return METHODS[name]()


@pytest.mark.parametrize("name", OF_IMAGES)
def test_no_method_waits_for_the_device_token_by_token(
    tiny: MLLM, pictures, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("compress.coverage.LAZY", ())  # as on a GPU
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])

    def count(keep: int) -> int:
        with attach(tiny, method(name, tiny), keep, match="tokens"), torch.no_grad():
            return waits(lambda: tiny.model(**inputs, use_cache=True))

    count(40)  # what is known of a picture's size is known from now on
    assert count(40) <= count(20) < 40  # fewer where a stage has nothing to drop


def test_the_paths_own_waits_are_few(tiny: MLLM, pictures):
    """Ids and mask once, what was chosen three times; the rest is the model's own."""
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    with torch.no_grad():
        vanilla = waits(lambda: tiny.model(**inputs, use_cache=True))
        with attach(tiny, method("evocomp", tiny), 30):
            assert waits(lambda: tiny.model(**inputs, use_cache=True)) == vanilla + 5


def test_half_precision_changes_no_count(tiny_folder: Path, pictures):
    from compress.models.loading import load

    half = load(str(tiny_folder), dtype=torch.bfloat16)
    inputs = half.prepare(pictures[:1], ["what color is the star ?"])
    with attach(half, method("evocomp", half), 30) as trace, torch.no_grad():
        waits(lambda: half.model(**inputs, use_cache=True))
    assert trace.samples[0].entering == [30] * 6
