from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.fastv import FastV
from compress.attach.session import attach
from compress.base import View
from compress.budget import plan
from compress.models.loading import MLLM

GOLDEN = np.load(
    Path(__file__).parents[2] / "bench" / "fidelity" / "golden" / "fastv.npz"
)  # pkunlp-icler/FastV, executed


@pytest.mark.parametrize("case", range(int(GOLDEN["n_cases"])))
def test_it_keeps_what_the_official_code_keeps(case: int):
    data = {
        name.split("/")[1]: torch.as_tensor(GOLDEN[name])
        for name in GOLDEN
        if name.startswith(f"case{case}/")
    }
    start, tokens, keep = (data[name].item() for name in ("image_start", "num_image_tokens", "num_keep"))
    last = data["attention"][0, :, -1] if "attention" in data else data["attention_last_query"]  # [H, L]
    visual = last[:, start : start + tokens]
    view = View(
        depth=2,
        hidden=data["hidden_states"][0, start : start + tokens],
        visual=torch.empty(0),
        text=torch.empty(0),
        index=torch.arange(tokens),
        grid=(1, tokens),
        attention=lambda layer, rows: {1: visual[:, None]}[layer] if list(rows) == [-1] else None,  # type: ignore
    )
    index = FastV().select(view, keep).index
    assert torch.equal(index, data["kept_image_indices"])
    length = last.shape[1]
    place = torch.cat([torch.arange(start), start + index, torch.arange(start + tokens, length)])
    assert torch.equal(place, data["kept_sequence_positions"])


def test_the_papers_layer_scales_with_the_decoder():
    assert FastV().schedule(576, 100, 32) == {2: 100}
    assert FastV().schedule(144, 16, 12) == {1: 16}
    assert FastV(layer=3).schedule(576, 100, 32) == {3: 100}
    assert plan(FastV(), 576, 128, 32) == {2: 98}  # the published equal-average counts
    assert plan(FastV(), 576, 192, 32, "tokens") == {2: 192}


def test_it_keeps_what_the_last_prompt_token_attends_to(tiny: MLLM, pictures, tiny_folder):
    from transformers import AutoModelForImageTextToText

    eager = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    inputs = tiny.prepare(pictures[:1], ["what color is the star ?"])
    with torch.no_grad(), attach(tiny, FastV(), 40, match="tokens") as trace:
        tiny.model(**inputs)
        attention = eager(**inputs, output_attentions=True).attentions[0][0, :, -1, 2:146].mean(0)
    assert trace.samples[0].kept == {1: attention.topk(40).indices.sort().values.tolist()}


def test_positions_stay_original():
    assert FastV().positions == "original"


@dataclass
class Remembering(FastV):
    queries: Literal["last", "all"] = "all"

    def score(self, view: View) -> Tensor:
        self.attention = view.attention(view.depth - 1, None)
        return super().score(view)


def test_the_papers_ranking_reads_the_attention_of_all_tokens(tiny: MLLM, pictures, tiny_folder):
    from transformers import AutoModelForImageTextToText

    eager = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    questions = ["what color is the star ?", "how many ?"]
    method = Remembering()
    with torch.no_grad(), attach(tiny, method, 40, match="tokens") as trace:
        tiny.model(**tiny.prepare(pictures[:2], questions))  # the second sample is padded
        alone = tiny.prepare(pictures[1:2], questions[1:])
        attention = eager(**alone, output_attentions=True).attentions[0][0, :, :, 2:146]
    torch.testing.assert_close(method.attention, attention, atol=1e-5, rtol=1e-4)
    assert trace.samples[1].kept == {1: attention.mean((0, 1)).topk(40).indices.sort().values.tolist()}
