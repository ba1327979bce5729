"""The libraries themselves, where they are installed: pip install bitsandbytes torchao peft accelerate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from baselines import METHODS
from compress.attach.session import attach
from compress.labels.fitness import AnswerLoss
from compress.models.loading import MLLM, adapt
from tests.methods import OF_IMAGES

QUESTION = "what color is the star ?"


def in_four_bits(model: Any) -> Any:
    bitsandbytes: Any = pytest.importorskip("bitsandbytes")

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if type(child) is not nn.Linear or child.in_features % 16:
                replace(child)
                continue
            layer = bitsandbytes.nn.Linear4bit(
                child.in_features, child.out_features, child.bias is not None, torch.float32
            )
            layer.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, layer.to("cpu"))

    replace(model)
    return model


def in_int8(model: Any) -> Any:
    quantization: Any = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def with_adapters(model: Any) -> Any:
    peft: Any = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=2)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("changed", [in_four_bits, in_int8, with_adapters])
def test_every_method_and_a_search_run_on_it(
    tiny: MLLM, pictures: Any, changed: Callable[[Any], Any]
) -> None:
    torch.manual_seed(0)  # of the adapters
    model = changed(copy.deepcopy(tiny.model))
    mllm = adapt(model, tiny.processor)
    inputs = mllm.prepare(pictures[:2], [QUESTION, "how many ?"])
    with torch.no_grad():
        alone = model(**inputs).logits[:, -1]
        untouched = tiny.model(**inputs).logits[:, -1]
    assert not torch.equal(alone, untouched)
    for name in [name for name in OF_IMAGES if not name.startswith("evocomp")]:
        with attach(mllm, METHODS[name](), "25%", match="tokens") as trace, torch.no_grad():
            logits = model(**inputs).logits[:, -1]
        assert logits.isfinite().all() and torch.equal(logits, alone) == (name == "none"), name
        assert name == "none" or min(trace.samples[0].entering) < trace.samples[0].tokens, name
    loss = AnswerLoss(mllm, mllm.embed(pictures[0], QUESTION, "red"))
    assert np.isfinite(loss(np.arange(4)[None])).all()
    assert mllm.fingerprint() != tiny.fingerprint()
