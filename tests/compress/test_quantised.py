"""Models whose weights a quantisation library has replaced: layers of its own class, or weights of one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import METHODS
from compress.attach.session import attach
from compress.files import digest_of
from compress.labels.fitness import AnswerLoss
from compress.models.loading import MLLM, adapt
from compress.weights import parts_of, stored
from tests.methods import OF_IMAGES

QUESTION = "what color is the star ?"


class Filled(nn.Linear):
    """A kernel that divides by the number of its rows, as that of bitsandbytes for 4 bits on a CPU."""

    def forward(self, rows: Tensor) -> Tensor:
        assert rows.numel(), "called with no rows"
        return super().forward(rows)


class Int8(Tensor):
    """Weights as torchao keeps them: a class of their own inside `nn.Linear`, which few operations take."""

    levels: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, levels: Tensor, scale: Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, levels.shape, dtype=scale.dtype)  # type: ignore[attr-defined]
        made.levels, made.scale = levels, scale
        return made

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        scale = weight.abs().amax(1, keepdim=True) / 127
        return cls((weight / scale).round().to(torch.int8), scale)

    def __tensor_flatten__(self) -> tuple[list[str], dict[str, Any]]:
        return ["levels", "scale"], {}

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            rows, weight, *bias = args
            return F.linear(rows, weight.levels * weight.scale, *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].levels, args[0].scale)
        raise NotImplementedError(f"Int8 has no {func}")


@pytest.fixture(params=["tiny", "tiny_next", "tiny_qwen"])
def mllm(request: pytest.FixtureRequest) -> MLLM:
    shared: MLLM = request.getfixturevalue(request.param)
    return adapt(copy.deepcopy(shared.model), shared.processor, shared.name)


def linears(mllm: MLLM) -> list[nn.Linear]:
    return [layer for layer in mllm.model.modules() if type(layer) is nn.Linear]


def with_int8(mllm: MLLM) -> MLLM:
    for layer in linears(mllm):
        layer.weight = nn.Parameter(Int8.of(layer.weight.detach()), requires_grad=False)
    return mllm


def with_the_same_in_floats(mllm: MLLM) -> MLLM:
    for layer in linears(mllm):
        weight = Int8.of(layer.weight.detach())
        layer.weight = nn.Parameter(weight.levels * weight.scale)
    return mllm


def methods(mllm: MLLM) -> list[str]:
    names = [name for name in OF_IMAGES if not name.startswith("evocomp")]
    if mllm.clip_tower:
        return names
    return [name for name in names if not METHODS[name].tower_layers and name not in ("downsample", "tome")]


def test_no_layer_is_called_with_no_rows(mllm: MLLM, pictures: Any) -> None:
    for layer in linears(mllm):
        layer.__class__ = Filled
    inputs = mllm.prepare(pictures[:2], [QUESTION, "how many ?"])
    for name in methods(mllm):
        with attach(mllm, METHODS[name](), "25%", match="tokens") as trace, torch.no_grad():
            mllm.model(**inputs)
        assert name == "none" or min(trace.samples[0].entering) < trace.samples[0].tokens, name
    embedded = mllm.embed(pictures[0], QUESTION)
    assert len(embedded.embeds) == embedded.prompt
    loss = AnswerLoss(mllm, mllm.embed(pictures[0], QUESTION, "red"))
    assert np.isfinite(loss(np.arange(4)[None])).all()


def test_weights_of_a_class_of_their_own_are_searched_with(mllm: MLLM, pictures: Any) -> None:
    kept = np.array([[0, 3, 5, 7], [1, 2, 8, 20]])
    plain = with_the_same_in_floats(adapt(copy.deepcopy(mllm.model), mllm.processor))
    expected, found = (
        AnswerLoss(one, one.embed(pictures[0], QUESTION, "red")) for one in (plain, with_int8(mllm))
    )
    assert found.full == pytest.approx(expected.full, abs=1e-4)
    assert found(kept) == pytest.approx(expected(kept), abs=1e-4)


def test_weights_of_a_class_of_their_own_have_a_fingerprint(tiny: MLLM) -> None:
    one, same, other = (with_int8(adapt(copy.deepcopy(tiny.model))) for _ in range(3))
    assert one.fingerprint() == same.fingerprint() != tiny.fingerprint()
    weight: Any = other.decoder.layers[0].mlp.up_proj.weight
    weight.scale[0] *= 2
    assert other.fingerprint() != one.fingerprint()


def test_weights_of_a_class_of_their_own_have_digests_that_tell_them_apart() -> None:
    def module(shift: float) -> nn.Module:
        layer = nn.Linear(3, 2)
        weight = torch.arange(6.0).view(2, 3) + 1
        weight[0, 0] += shift
        layer.weight = nn.Parameter(Int8.of(weight), requires_grad=False)
        layer.bias = nn.Parameter(torch.zeros(2))
        return layer

    one, same, other = (digest_of(parts_of(module(shift).state_dict())) for shift in (0, 0, 0.5))
    assert one == same != other
    names = [name for name, _ in stored(module(0).state_dict())]
    assert names == ["bias", "weight.levels of Int8 {}", "weight.scale of Int8 {}"]
