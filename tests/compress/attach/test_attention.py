"""The oracle is the library's own eager attention, asked for all weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from compress.attach.attention import cls_scores, decoder_rows, tower_keys
from compress.attach.session import attach
from compress.base import Selection, Selector, View
from compress.models.loading import MLLM


@pytest.fixture(scope="module")
def eager(tiny: MLLM, tiny_folder: Path, pictures):
    """Attention weights of all layers for one sample: tower [L][H, 1 + N, 1 + N], decoder [L][H, S, S]."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    inputs = tiny.prepare(pictures[:1], ["how many ?"])
    with torch.no_grad():
        tower = model.model.vision_tower(
            inputs["pixel_values"], output_attentions=True, output_hidden_states=True
        )
        decoder = model(**inputs, output_attentions=True, output_hidden_states=True)
    return tower, decoder


@pytest.mark.parametrize("layer", [0, -2, -1])
def test_cls_rows_equal_eager_attention(tiny: MLLM, eager, layer: int):
    tower, _ = eager
    number = layer % len(tiny.tower_layers)
    with torch.no_grad():
        rows = cls_scores(tiny.tower_layers[layer], tower.hidden_states[number][0]).softmax(-1)[:, 1:]
    expected = tower.attentions[number][0, :, 0, 1:]
    assert rows.shape == (4, 144)
    assert expected.std() > 1e-3  # the weights are not flat
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=1e-5)


def test_tower_keys_are_those_of_the_layer(tiny: MLLM, eager):
    tower, _ = eager
    seen = []
    layer = tiny.tower_layers[-2]
    handle = layer.self_attn.k_proj.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.no_grad():
        layer(tower.hidden_states[-3], None)
        handle.remove()
        keys = tower_keys(layer, tower.hidden_states[-3][0])
    assert torch.equal(keys.flatten(1), seen[0])


@pytest.mark.parametrize("layer", [0, 3])
def test_decoder_rows_equal_eager_attention(tiny: MLLM, eager, layer: int):
    _, decoder = eager
    hidden = decoder.hidden_states[layer]
    with torch.no_grad():
        tables = tiny.decoder.rotary_emb(hidden, position_ids=torch.arange(hidden.shape[1])[None])
        rows = decoder_rows(tiny.decoder.layers[layer], hidden[0], tables, [0, 70, hidden.shape[1] - 1])
    expected = decoder.attentions[layer][0][:, [0, 70, -1]]
    assert expected.std() > 1e-3
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "tiny_qwen"])
def test_queries_and_keys_without_rotation_are_what_the_layer_projects(name: str, pictures, request):
    """Of all rows up to the last visual one; products are logits."""
    mllm: MLLM = request.getfixturevalue(name)
    questions, read = ["how many ?", "is there a red circle above ?"], []

    class Reads(Selector):
        def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
            return {2: keep}

        def select(self, view: View, keep: int) -> Selection:
            read.append(view.unrotated(2))
            return Selection(torch.arange(keep))

    inputs = mllm.prepare(pictures[:2], questions)
    with attach(mllm, Reads(), 20, match="tokens"), torch.no_grad():
        mllm.model(**inputs)
    for number, (queries, keys, visual) in enumerate(read):
        own = mllm.prepare(pictures[number : number + 1], questions[number : number + 1])
        rows = mllm.placeholders(own["input_ids"][0]).nonzero()[:, 0]
        attention = mllm.decoder.layers[2].self_attn
        with torch.no_grad():
            hidden = mllm.model(**own, output_hidden_states=True).hidden_states[2][0, : int(rows[-1]) + 1]
            normed = mllm.decoder.layers[2].input_layernorm(hidden)
            query, key = attention.q_proj(normed), attention.k_proj(normed)
        assert torch.equal(visual, rows)
        torch.testing.assert_close(queries.flatten(1) / attention.scaling, query, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(keys.flatten(1), key, atol=1e-5, rtol=1e-5)
