"""The oracle is the library's own eager attention, asked for all weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from compress.attach.attention import cls_scores, decoder_rows, tower_keys
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
