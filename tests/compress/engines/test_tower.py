from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines import VisionZip
from compress.attach.attention import cls_scores, tower_keys
from compress.attach.tower import TowerSession
from compress.engines.tower import EngineLayer, encode
from compress.models.loading import MLLM


def lent(layer: Any, config: Any) -> EngineLayer:
    """A layer of transformers as an engine has it: queries, keys and values in one product."""

    def project(hidden: Tensor) -> Tensor:
        own = layer.self_attn
        return torch.cat([own.q_proj(hidden), own.k_proj(hidden), own.v_proj(hidden)], -1)

    return EngineLayer(layer.layer_norm1, project, config)


def test_an_engine_s_layer_is_read_like_the_model_s_own(tiny: MLLM) -> None:
    hidden = torch.randn(1 + tiny.tile_tokens, tiny.model.config.vision_config.hidden_size)
    for layer in tiny.tower_layers:
        other = lent(layer, tiny.model.config.vision_config)
        torch.testing.assert_close(tower_keys(other, hidden), tower_keys(layer, hidden))
        torch.testing.assert_close(cls_scores(other, hidden), cls_scores(layer, hidden))


def test_a_run_of_the_engine_s_tower_notes_what_attach_notes(tiny: MLLM, pictures: list) -> None:
    inputs = tiny.prepare(pictures[:2], ["what color ?"] * 2)
    selector = VisionZip()
    session = TowerSession(tiny, selector, 5, False)
    session.hook()
    with torch.no_grad():
        tiny.image_features(inputs)
    theirs = session.encoding
    session.unhook()
    assert theirs is not None and theirs.features is not None and theirs.cls is not None

    def tower(tiles: Tensor) -> Tensor:
        output = tiny.tower(tiles, output_hidden_states=True)
        return output.hidden_states[tiny.model.config.vision_feature_layer]

    layers = dict(enumerate(tiny.tower_layers))
    read = {layer: tiny.tower_block(layer) for layer in selector.tower_layers}
    ours = encode(tower, layers, tiny, read, inputs["pixel_values"])
    assert ours.features is not None and ours.cls is not None
    torch.testing.assert_close(ours.features, theirs.features)
    torch.testing.assert_close(ours.cls, theirs.cls)
    for layer in selector.tower_layers:
        torch.testing.assert_close(ours.inputs[layer].hidden, theirs.inputs[layer].hidden)
    assert not any(each._forward_pre_hooks for each in tiny.tower_layers)
