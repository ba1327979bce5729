from __future__ import annotations

import pytest
import torch
from PIL import Image

from baselines.vscan import VScan
from compress.attach.session import attach
from compress.base import INPUT, tower_layer
from compress.models.loading import MLLM


def test_half_of_the_tokens_are_the_windows_best():
    method, place = VScan(window=2), torch.arange(16)
    window, windows = method.windows(place // 4, place % 4)
    assert windows == 4 and window.view(4, 4).tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]
    attention = torch.arange(16.0)
    assert method.local(attention, window, windows, 4).tolist() == [5, 7, 13, 15]
    assert method.local(attention, window, windows, 7).tolist() == [5, 7, 13, 15]  # equal numbers only
    assert method.remaining(attention, torch.tensor([13, 15]), 3).tolist() == [11, 12, 14]


def test_a_border_narrower_than_a_window_belongs_to_the_last():
    place = torch.arange(35)
    window, windows = VScan(window=2).windows(place // 7, place % 7)
    assert windows == 6 and window.bincount().tolist() == [4, 4, 6, 6, 6, 9]
    assert VScan(window=9).windows(place // 7, place % 7)[1] == 1


def test_a_cap_lets_the_next_best_of_other_windows_in():
    window = torch.tensor([0, 0, 0, 1, 1, 1])
    attention = torch.tensor([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    assert VScan.capped(attention, window, 2, 3).tolist() == [0, 1, 3]
    assert VScan.capped(attention, window, 2, 2).tolist() == [0, 3]


def test_a_token_joins_the_kept_one_most_like_it():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 2.0]])
    merged, nearest = VScan.merged(features, torch.tensor([0, 2]))
    assert nearest.tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(merged, torch.tensor([[2.0, 0.05], [0.05, 1.5]]))


def test_the_official_counts_of_576_tokens_average_64():
    schedule = VScan(ratio=1 / 3).schedule(576, 32, 32)
    assert schedule == {0: 96, 16: 32}


def test_the_early_layer_is_the_fifth_of_24():
    assert [tower_layer(VScan().shallow, layers) for layers in (24, 48, 12)] == [5, 10, 2]


@pytest.mark.parametrize("size", [(48, 48), (60, 30), (20, 70), (1, 180)])
def test_budgets_are_exact_for_images_in_tiles(tiny_next: MLLM, size: tuple[int, int]):
    image = Image.effect_noise(size, 90).convert("RGB")
    inputs = tiny_next.prepare([image], ["how many ?"])
    (picture,) = tiny_next.pictures(inputs)
    for keep in 1, 7, 20:
        with attach(tiny_next, VScan(), keep, match="tokens") as trace, torch.no_grad():
            tiny_next.model(**inputs)
        (record,) = trace.samples
        first = min(round(keep * 3), len(picture))
        assert record.entering == [first] * 3 + [keep] * 3
        if first < len(picture):
            newlines = int((picture.tile[record.kept[INPUT]] < 0).sum())
            assert newlines == min(first // 2, int((picture.tile < 0).sum()))


@pytest.mark.parametrize("option", [{"ratio": 0.0}, {"ratio": 1.5}, {"window": -1}])
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        VScan(**option)
