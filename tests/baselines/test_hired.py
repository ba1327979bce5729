from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.hired import HiRED
from compress.attach.session import attach
from compress.base import VISION, View
from compress.models.loading import MLLM

STITCHED = torch.tensor([[1, 2], [3, 4]]).repeat_interleave(4, 0).repeat_interleave(4, 1)  # 8 x 8 of 4 crops
TILES = torch.cat([torch.zeros(16, dtype=torch.long), STITCHED.flatten()])  # a thumbnail of 4 x 4 before them


def view(attention: dict[int, Tensor], crop: Tensor | None = None) -> View:
    """A view at VISION whose layers have this attention [N], split unevenly over two heads."""
    tokens = len(attention[-2])
    hidden = torch.arange(tokens * 2.0).view(tokens, 2)
    return View(
        depth=VISION,
        hidden=hidden,
        visual=torch.empty(0, 4),
        text=torch.empty(0, 4),
        index=torch.arange(tokens),
        grid=(4, 4) if crop is not None else (1, tokens),
        crop=crop,
        cls_token=hidden[:1],
        cls=lambda layer: torch.stack([attention[layer] * 0.25, attention[layer] * 0.75]),
    )


def random_view(seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    return view({layer: torch.rand(80, generator=generator) for layer in (0, -2)}, TILES)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_one_image_keeps_what_late_attention_says(alpha: float):
    late = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.3])
    selection = HiRED(alpha).select(view({0: late.flip(0), -2: late}), 3)
    assert selection.index.tolist() == [1, 2, 4] and selection.tokens is None


def test_late_attention_is_that_of_the_layer_whose_output_is_used(tiny: MLLM, pictures, tiny_folder):
    from transformers import AutoModelForImageTextToText

    eager = AutoModelForImageTextToText.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    inputs = tiny.prepare(pictures[:1], ["how many ?"])
    with attach(tiny, HiRED(), 20) as trace, torch.no_grad():
        tiny.model(**inputs)
        tower = eager.model.vision_tower(inputs["pixel_values"], output_attentions=True)
    attention = tower.attentions[-2][0, :, 0, 1:].sum(0)
    assert trace.samples[0].kept == {VISION: attention.topk(20).indices.sort().values.tolist()}


def test_the_thumbnail_gets_alpha_and_crops_share_the_rest_by_early_attention():
    early = torch.zeros(80)
    early[TILES == 0] = torch.tensor([[0, 0, 3, 3], [0, 0, 3, 3], [1, 1, 2, 2], [1, 1, 2, 2]]).flatten() / 10
    late = torch.arange(80.0)
    kept = HiRED(crop_mapping="spatial").select(view({0: early, -2: late}, TILES), 24).index
    assert TILES[kept].bincount().tolist() == [12, 0, 6, 0, 6]  # half marked: the right quadrants
    kept = HiRED(crop_mapping="flat_chunks").select(view({0: early, -2: late}, TILES), 24).index
    assert TILES[kept].bincount().tolist() == [12, 3, 3, 3, 3]  # every row has two marks
    assert kept[:12].tolist() == list(range(4, 16))  # the best by late attention


@pytest.mark.parametrize("mapping", ["flat_chunks", "spatial"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_the_budget_of_an_image_in_tiles_is_exact(alpha: float, mapping):
    for keep in range(1, 80):
        index = HiRED(alpha, crop_mapping=mapping).select(random_view(), keep).index
        assert len(index) == keep and (index.diff() > 0).all()


def test_the_official_code_loses_what_rounding_cuts_off():
    early, region, sizes = torch.arange(16.0), torch.arange(16) % 3, torch.tensor([16, 16, 16, 16])
    assert HiRED().budgets(early, region, sizes, 20, exact=False).tolist() == [10, 3, 2, 3]  # marks 3, 2, 3
    assert HiRED().budgets(early, region, sizes, 20).tolist() == [10, 4, 2, 4]


def test_a_tower_without_cls_is_refused():
    hidden = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="HiRED needs a vision tower with a CLS token"):
        HiRED().select(View(VISION, hidden, hidden, hidden, torch.arange(4), (2, 2)), 2)


@pytest.mark.parametrize("alpha", [-1, 2])
def test_shares_that_make_no_sense_are_refused(alpha: float):
    with pytest.raises(ValueError, match="alpha="):
        HiRED(alpha)
