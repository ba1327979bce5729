"""What stands in for CLS in a tower without one: the attention that tokens receive from their image."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from baselines import METHODS
from baselines.fastervlm import FasterVLM
from baselines.globalcom2 import GlobalCom2
from compress.attach.session import attach
from compress.base import INPUT, ClsSelector, Selection, View
from compress.budget import choices_of
from compress.models.loading import MLLM

SUBSTITUTED = sorted(name for name, method in METHODS.items() if issubclass(method, ClsSelector))
QUESTIONS = ["how many ?", "what color is the star ?", "is there a red circle above ?"]


@dataclass
class Reading(ClsSelector):
    """Notes what it reads of every image."""

    layers: tuple[float, ...] = (-1,)
    seen: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)

    @property
    def tower_layers(self) -> tuple[float, ...]:
        return self.layers

    def select(self, view: View, keep: int) -> Selection:
        self.seen.append(
            ([view.received(one) for one in self.layers], [view.keys(one) for one in self.layers])
        )
        return Selection(torch.arange(keep))


def shapes(pictures):
    return [pictures[0], pictures[1].resize((60, 30)), pictures[2].resize((26, 90))]


def expected(mllm: MLLM, inputs, block: int) -> list[Tensor]:
    """Per image [H, N], computed with the model's own rotation, window order and merging."""
    tower, found = mllm.tower, {}
    handle = tower.blocks[block].register_forward_pre_hook(
        lambda _, args, kwargs: found.update(hidden=args[0], table=kwargs["position_embeddings"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        output = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    handle.remove()
    attention = tower.blocks[block].attn
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb_vision
    qkv = attention.qkv(tower.blocks[block].norm1(found["hidden"])).view(len(found["hidden"]), 3, 4, -1)
    query, key = rotate(qkv[:, 0], qkv[:, 1], *found["table"])
    # The model's own order: which group of its last layer each merged token is made of.
    merged = tower.merger(output.last_hidden_state)
    place = torch.cdist(output.pooler_output, merged).argmin(1)
    weights, start = [], 0
    for size in inputs["image_grid_thw"].prod(1).tolist():
        rows = slice(start, start + size)
        scores = torch.einsum("qhd,khd->hqk", query[rows], key[rows]) * attention.head_dim**-0.5
        weights.append(scores.softmax(-1).mean(1).unflatten(1, (-1, 4)).mean(2))
        start += size
    return list(torch.cat(weights, 1)[:, place].split([w.shape[1] for w in weights], 1))


@pytest.mark.parametrize(("layer", "block"), [(-1, 3), (-2, 3), (0, 1), (5 / 24, 1)])
def test_attention_is_that_of_the_nearest_full_layer_in_raster_order(
    tiny_qwen: MLLM, pictures, layer: float, block: int
):
    inputs = tiny_qwen.prepare(shapes(pictures), QUESTIONS)
    method = Reading(layers=(layer,), cls="received")
    with attach(tiny_qwen, method, 4, match="tokens"), torch.no_grad():
        tiny_qwen.model(**inputs)
    with torch.no_grad():
        wanted = expected(tiny_qwen, inputs, block)
    assert len(method.seen) == 3
    for ((received,), (keys,)), attention in zip(method.seen, wanted, strict=True):
        torch.testing.assert_close(received, attention, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(received.sum(1), torch.full((4,), 0.25))  # means over groups of four
        assert keys.shape == (attention.shape[1], 4, 12)


@pytest.mark.parametrize("name", SUBSTITUTED)
def test_methods_that_read_cls_run_without_it_where_that_is_asked_for(tiny_qwen: MLLM, pictures, name: str):
    method, images = METHODS[name](cls="received"), shapes(pictures)
    inputs = tiny_qwen.prepare(images, QUESTIONS)
    with attach(tiny_qwen, method, 9, match="tokens") as trace, torch.no_grad():
        together = tiny_qwen.model(**inputs).logits[:, -1]
        alone = [
            tiny_qwen.model(**tiny_qwen.prepare([image], [question])).logits[0, -1]
            for image, question in zip(images, QUESTIONS, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert trace.samples[:3] == trace.samples[3:]
    assert all(record.entering[-1] == 9 and INPUT in record.kept for record in trace.samples)
    told = choices_of(method, tiny_qwen.traits)
    assert any("stands in for the attention of CLS" in choice for choice in told)


@pytest.mark.parametrize("name", SUBSTITUTED)
def test_it_is_never_silent(tiny_qwen: MLLM, tiny: MLLM, name: str):
    with pytest.raises(ValueError, match="choose cls=received, or"), attach(tiny_qwen, METHODS[name](), 9):
        pass
    with pytest.raises(ValueError, match="tower has CLS"), attach(tiny, METHODS[name](cls="received"), 9):
        pass
    assert not any("stands in" in choice for choice in choices_of(METHODS[name](), tiny_qwen.traits))


def test_other_methods_of_the_tower_are_offered_none(tiny_qwen: MLLM):
    with pytest.raises(ValueError, match="choose a method that acts"), attach(tiny_qwen, GlobalCom2(), 9):
        pass


def test_nothing_is_computed_unless_it_is_asked_for(tiny_qwen: MLLM, pictures):
    inputs = tiny_qwen.prepare(pictures[:1], QUESTIONS[:1])
    flops = {}
    for name, method in {"nothing": METHODS["grid"](), "received": FasterVLM(cls="received")}.items():
        with attach(tiny_qwen, method, 9, count_flops=True) as trace, torch.no_grad():
            tiny_qwen.model(**inputs)
        flops[name] = trace.samples[0].selection_flops
    assert flops["nothing"] == 0 < flops["received"]
