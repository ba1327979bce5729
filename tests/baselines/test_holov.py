from __future__ import annotations

import pytest
import torch

from baselines.holov import HoloV
from compress.attach.session import attach
from compress.base import VISION
from compress.models.loading import MLLM


def test_the_number_of_chunks_follows_the_budget_as_officially():
    method = HoloV()
    assert [method.count(576, keep) for keep in (64, 128, 192)] == [16, 8, 5]
    assert [method.count(2880, keep) for keep in (640, 320, 160)] == [8, 16, 32]
    assert HoloV(chunks=4).count(576, 64) == 4
    assert method.count(144, 1) == 144 and HoloV(chunks=9).count(4, 2) == 4  # none is empty


def test_a_chunk_gets_what_its_attention_is_worth():
    attention = torch.tensor([0.3, 0.1, 0.2, 0.2, 0.05, 0.05, 0.05, 0.05])
    kept = HoloV().kept(attention, torch.eye(8), 2, 5)
    assert kept.tolist() == [0, 1, 2, 3, 4]  # 4 of the first, as it was; 1 of the second
    assert HoloV().kept(attention, torch.eye(8), 2, 3).tolist() == [0, 2, 3]  # 2 and what is left


def test_what_a_full_chunk_has_no_room_for_goes_to_the_others_or_is_lost():
    attention = torch.tensor([0.5, 0.4, 0.025, 0.025, 0.025, 0.025])
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert HoloV().kept(attention, features, 3, 4).tolist() == [0, 1, 2, 4]
    assert HoloV(surplus="lost").kept(attention, features, 3, 4).tolist() == [0, 1]


def test_the_variance_of_similarities_changes_no_proportion():
    generator = torch.Generator().manual_seed(1)
    attention, features = torch.rand(60, generator=generator), torch.randn(60, 8, generator=generator)
    scores = HoloV().scores(attention, features, 5)
    means = torch.stack([part.mean() for part in attention.tensor_split(5)])
    torch.testing.assert_close(scores, 1090 * means, rtol=1e-4, atol=0)


@pytest.mark.parametrize("order", ["attention", "raster"])
def test_tokens_go_on_in_the_order_that_is_asked_for(tiny: MLLM, pictures, order):
    with attach(tiny, HoloV(order=order), 40) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures[:1], ["how many ?"]))
    (record,) = trace.samples
    kept = record.kept[VISION]
    assert (kept == sorted(kept)) == (order == "raster") and not any(record.merged[VISION])


def test_a_negative_number_of_chunks_is_refused():
    with pytest.raises(ValueError, match="chunks=-1"):
        HoloV(chunks=-1)
