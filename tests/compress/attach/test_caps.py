"""Scores that a model caps are read capped: the attention that methods see is the model's."""

from __future__ import annotations

import torch
from transformers import Gemma2Config, Gemma2Model

from compress.attach.attention import decoder_rows


def test_the_attention_of_a_layer_with_a_cap_is_its_own() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, attn_logit_softcapping=0.5, attn_implementation="eager",
        initializer_range=1.0,
    )  # fmt: skip
    model = Gemma2Model(config).eval()
    (layer,), given = model.layers, {}

    def note(_: object, args: tuple, rest: dict) -> None:
        given.update(rest, hidden=args[0])

    layer.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        seen = model(inputs_embeds=torch.randn(1, 6, 16), output_attentions=True).attentions[0][0]

        def read() -> torch.Tensor:
            return decoder_rows(layer, given["hidden"][0], given["position_embeddings"], range(6))

        assert torch.allclose(read(), seen, atol=1e-5)
        layer.self_attn.attn_logit_softcapping = None
        assert not torch.allclose(read(), seen, atol=1e-2)
