from __future__ import annotations

from math import log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from baselines import FlowCut
from compress.attach.session import attach
from compress.base import VISION, Merge, TowerView
from compress.models.loading import MLLM, adapt
from tests.conftest import sharpen

QUESTIONS = ["what color is the star ?", "how many ?", "is there a red circle above ?"]
KEEP = 30
pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def deep(tiny: MLLM) -> MLLM:
    """The tiny LLaVA with a tower of 8 blocks: patches go after blocks 1, 3 and 5, and 7 are used."""
    config = type(tiny.model.config)(**tiny.model.config.to_dict())
    config.vision_config.num_hidden_layers = 8
    torch.manual_seed(3)
    model = sharpen(LlavaForConditionalGeneration(config))
    for block in model.model.vision_tower.encoder.layers:  # attention of little entropy
        block.self_attn.q_proj.weight.data *= 4
    return adapt(model, tiny.processor)


@torch.no_grad()
def oracle(mllm: MLLM, pixels: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Features [K, C] of one image, its patches, and how many every block leaves, by loops without hooks."""
    tower = mllm.tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels[None]))[0]
    place, running, counts = list(range(len(hidden) - 1)), [], []
    blocks = tower.encoder.layers[: mllm.tower_depth]
    for number, block in enumerate(blocks):
        attention, normed = block.self_attn, block.layer_norm1(hidden)
        query, key, value = (
            project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (query @ key.transpose(1, 2) * attention.scale).softmax(-1)
        hidden = hidden + attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
        left, n = len(blocks) - 2 - number, len(place)
        if left >= 0 and n > KEEP:
            seen = weights[:, 0, 1:].mean(0)
            alike = (value[:, :1] @ value.transpose(1, 2)).softmax(-1)[:, 0, 1:].mean(0)
            strength = value.mean(0)[1:].norm(1, dim=-1)
            score = ((seen / seen.sum() + alike / alike.sum()) * strength).tolist()
            running = [(old + new) / 2 for old, new in zip(running, score, strict=True)] if running else score
            if left % 2 == 0:
                parts = (seen / seen.sum()).tolist()
                entropy = -sum(part * log(part) for part in parts)
                drop = round((n - KEEP) / sqrt(left) * (1 - (entropy / log(n)) ** 2)) if left else n - KEEP
                best = sorted(range(n), key=lambda one: -running[one])[: max(n - drop, KEEP)]
                stays = sorted(best)
                place, running = [place[one] for one in stays], [running[one] for one in stays]
                hidden = hidden[[0, *(one + 1 for one in stays)]]
        counts.append(len(place))
    return hidden[1:], place, counts


class Noting(FlowCut):
    """Notes how many patches every block leaves, image by image."""

    def __init__(self) -> None:
        self.left: list[tuple[int, int]] = []

    def merge(self, view: TowerView, keep: int) -> Merge:
        merge = super().merge(view, keep)
        self.left.append((view.layer, len(merge.index)))
        return merge


def test_dropping_block_by_block_equals_a_loop_over_the_tower(deep: MLLM, pictures, monkeypatch):
    """In a batch whose images have different numbers of patches on the way."""
    inputs = deep.prepare(pictures[:3], QUESTIONS)
    seen: list[Tensor] = []
    project = deep.projector.forward
    monkeypatch.setattr(deep.projector, "forward", lambda tokens: (seen.append(tokens), project(tokens))[1])
    method = Noting()
    with attach(deep, method, KEEP) as trace, torch.no_grad():
        deep.model(**inputs)
    rows, ways = [tokens for tokens in seen if tokens.ndim == 2], []
    for number, record in enumerate(trace.samples):
        features, kept, counts = oracle(deep, inputs["pixel_values"][number])
        torch.testing.assert_close(rows[number], features, atol=2e-5, rtol=1e-4)
        assert record.kept[VISION] == kept and not any(record.merged[VISION])
        assert record.entering == [KEEP] * deep.layers
        ways.append(counts)
        assert counts[0] == 144 and counts[1] < 144 and counts[5:] == [KEEP, KEEP]
    assert len({tuple(way) for way in ways}) > 1  # the images decide
    by_block = [[count for layer, count in method.left if layer == block] for block in range(6)]
    assert by_block == [[way[block] for way in ways] for block in range(6)]


def logits(mllm: MLLM, inputs: Any) -> Tensor:
    output = mllm.model.generate(
        **inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(output.logits, 1)


def test_a_batch_equals_its_samples_and_keeping_all_changes_nothing(deep: MLLM, pictures):
    inputs = deep.prepare(pictures[:3], QUESTIONS)
    untouched = logits(deep, inputs)
    with attach(deep, FlowCut(), 144):
        assert torch.equal(logits(deep, inputs), untouched)
    with attach(deep, FlowCut(), KEEP) as trace:
        together = logits(deep, inputs)
        alone = [
            logits(deep, deep.prepare([one], [asked]))
            for one, asked in zip(pictures, QUESTIONS, strict=False)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=3e-5, rtol=1e-5)
    assert trace.samples[:3] == trace.samples[3:]
    assert (together - untouched).abs().max() > 0.01


def test_the_ledger_has_the_products_of_every_block(deep: MLLM, pictures):
    inputs = deep.prepare(pictures[:1], QUESTIONS[:1])
    with attach(deep, FlowCut(), KEEP, count_flops=True) as trace, torch.no_grad():
        deep.model(**inputs)
    counts = [144, *oracle(deep, inputs["pixel_values"][0])[2]][:6]  # that enter a block
    width = deep.model.config.vision_config.hidden_size
    # Queries, keys and values of all rows, and what those of CLS have in common with the others.
    each = [2 * (1 + count) * (3 * width * width + 2 * width) for count in counts]
    assert trace.samples[0].selection_flops == sum(each)


@pytest.mark.parametrize("focus", [0.0, 1.0])
def test_the_more_attention_is_focused_the_more_patches_go(focus: float):
    attention = torch.full((100,), 1e-9).index_fill(0, torch.tensor([7]), 1.0) if focus else torch.ones(100)
    assert FlowCut.leaves(attention, 20, 4) == (60 if focus else 100)  # half of what is too many, or none
    assert FlowCut.leaves(attention, 20, 0) == 20 and FlowCut.leaves(attention, 20, 3) == 100


def test_with_a_surplus_the_last_word_of_the_prompt_chooses_among_what_the_tower_left(
    tiny_next_fixed: MLLM, pictures
):
    """The official rule for five tiles: half of the budget leaves each, the budget goes on after a layer."""
    mllm, surplus = tiny_next_fixed, 75
    inputs, read = mllm.prepare(pictures[:1], QUESTIONS[:1]), dict[str, Any]()
    attention = mllm.decoder.layers[0].self_attn
    handle = attention.register_forward_pre_hook(lambda _, args, given: read.update(given), with_kwargs=True)
    with attach(mllm, FlowCut(), surplus, match="tokens") as tower, torch.no_grad():
        mllm.model(**inputs)
    handle.remove()
    with attach(mllm, FlowCut(ahead=2.5), KEEP, match="tokens") as trace, torch.no_grad():
        mllm.model(**inputs)
        query, key, value = (
            project(read["hidden_states"]).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
    query, key = apply_rotary_pos_emb(query, key, *read["position_embeddings"])
    query, key, value = (
        each.repeat_interleave(query.shape[1] // each.shape[1], 1)[0] for each in (query, key, value)
    )
    first = int(mllm.placeholders(inputs["input_ids"])[0].nonzero()[0])
    scores = []
    for asks, answers in ((query, key), (value, value)):
        rows = answers[:, first : first + surplus]
        shares = (asks[:, -1:] @ rows.mT / sqrt(attention.head_dim)).softmax(-1)[:, 0].mean(0)
        scores.append(shares / shares.sum())
    strength = value[:, first : first + surplus].mean(0).norm(1, dim=-1)
    best = ((scores[0] + scores[1]) * strength).topk(KEEP).indices.sort().values.tolist()
    left = tower.samples[0].kept[VISION]
    assert len(left) == surplus and trace.samples[0].kept[VISION] == left
    assert trace.samples[0].kept[1] == [left[one] for one in best]
    assert trace.samples[0].entering == [surplus] + [KEEP] * (mllm.layers - 1)


def test_a_surplus_below_the_budget_is_refused():
    with pytest.raises(ValueError, match="ahead=0.5: choose 1 or more times the budget"):
        FlowCut(ahead=0.5)


@pytest.mark.parametrize("layers", [1, 2, 3, 23])
def test_the_last_block_that_is_used_sees_the_budget_where_there_is_one_before_it(layers: int):
    assert FlowCut().tower(576, 64, layers) == dict.fromkeys(range(max(1, layers - 1)), 64)
