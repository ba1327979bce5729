from __future__ import annotations

import pytest
import torch
from torch import Tensor

from baselines.dart import DART, DARTInput
from compress.attach.session import attach
from compress.base import INPUT, View
from compress.budget import plan
from compress.models.loading import MLLM


def view(states: Tensor, norms: Tensor, visual: int, before: int = 0, depth: int = 2) -> View:
    """The first `before` states are text, then come the visual ones, then the other text.

    Keys have the given L1 norms, spread over two heads; the final norm doubles, which no cosine notices.
    """
    image = slice(before, before + visual)
    others = [row for row in range(len(states)) if not before <= row < before + visual]
    keys = (norms / 4)[:, None, None] * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return View(
        depth=depth,
        hidden=states[image],
        visual=states[image],
        text=states[others],
        index=torch.arange(visual),
        grid=(1, visual),
        before=before,
        inputs=states[image],
        context=states[others],
        decoder_keys=lambda layer: {depth - 1: (keys[image], keys[others])}[layer],
        norm=lambda normed: 2 * normed,
    )


def angles(*degrees: float) -> Tensor:
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_the_pivot_stays_and_takes_what_resembles_it_least():
    states = angles(0, 10, 90, 180, 45)
    norms = torch.tensor([9.0, 1, 1, 1, 1])
    dart = DART(image_pivots=1, text_pivots=0)
    assert dart.select(view(states, norms, 5), 2).index.tolist() == [0, 3]
    assert dart.select(view(states, norms, 5), 3).index.tolist() == [0, 2, 3]


def test_the_strongest_word_after_the_image_steers_but_takes_no_place():
    # visual tokens at 0, 90, 180 and 45; words at -10 degrees before the image and behind it, and one at 100
    states = angles(-10, 0, 90, 180, 45, -10, 100)
    norms = torch.tensor([99.0, 9, 1, 1, 1, 2, 3])
    seen = view(states, norms, visual=4, before=1)
    one, none = DART(image_pivots=1, text_pivots=1, pivot_order="norm"), DART(image_pivots=1, text_pivots=0)
    assert one.select(seen, 3).index.tolist() == [0, 2, 3]  # 180 from the pivot at 0, 45 from the word at 100
    assert none.select(seen, 3).index.tolist() == [0, 1, 2]


def test_what_one_pivot_took_is_gone_for_the_next():
    states = angles(0, 5, 180, 90, 170)
    norms = torch.tensor([9.0, 8, 1, 1, 1])  # both pivots are farthest from the token at 180
    dart = DART(image_pivots=2, text_pivots=0, pivot_order="norm")
    assert dart.select(view(states, norms, 5), 4).index.tolist() == [0, 1, 2, 4]


def test_pivots_choose_by_norm_or_as_cpython_walks_through_a_set():
    states = angles(30, 180, 90, 0, -90, 150)
    norms = torch.tensor([1.0, 8, 1, 9, 1, 1])  # pivots 3, then 1; a set of both starts with 1
    seen = view(states, norms, 6)
    by_norm = DART(image_pivots=2, text_pivots=0, pivot_order="norm")
    assert by_norm.pivots(norms, 6, 0, 3)[2] == [3, 1]
    assert by_norm.select(seen, 3).index.tolist() == [1, 3, 5]  # 3 looks away from 150 degrees
    official = DART(image_pivots=2, text_pivots=0)
    assert official.pivots(norms, 6, 0, 3)[2] == [1, 3]
    assert official.select(seen, 3).index.tolist() == [0, 1, 3]  # 1 looks away from 30


def test_the_set_holds_absolute_positions():
    norms = torch.tensor([9.0, 8, 7])
    dart = DART(image_pivots=2, text_pivots=1)
    assert dart.pivots(norms, 2, 0, 2)[2] == [0, 1, 2]
    assert dart.pivots(norms, 2, 7, 2)[2] == [1, 2, 0]  # positions 7, 8, 9 in a table of 8 slots


@pytest.mark.parametrize("tokens", [144, 576])
def test_a_strict_budget_is_exact_down_to_one_token(tokens: int):
    generator = torch.Generator().manual_seed(0)
    states, norms = (torch.randn(tokens + 9, 8, generator=generator), torch.rand(tokens + 9))
    seen = view(states, norms, tokens, before=3)
    for keep in (1, 2, 4, 5, 13, 64, tokens - 1):
        index = DART().select(seen, keep).index
        assert len(index) == keep and index.tolist() == sorted(set(index.tolist()))


def test_what_division_leaves_goes_to_the_first_pivots():
    assert DART.shares(188, 8) == [24] * 4 + [23] * 4
    assert DART.shares(2, 8) == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("budget", "kept"), [(192, 196), (128, 132), (64, 68), (3, 4)])
def test_the_official_budget_keeps_the_image_pivots_on_top(budget: int, kept: int):
    assert plan(DART(), 576, budget, 32, "tokens") == {2: budget}
    assert plan(DART(budget="official"), 576, budget, 32, "tokens") == {2: kept}


def test_the_papers_layer_scales_with_the_decoder_and_0_is_its_input():
    assert DART().schedule(144, 16, 12) == {1: 16}
    assert DART(layer=0).schedule(144, 16, 12) == DARTInput().schedule(144, 16, 12) == {INPUT: 16}


def test_before_the_decoder_embeddings_are_all_there_is():
    embeddings = angles(0, 10, 180, 90) * torch.tensor([5.0, 1, 1, 1])[:, None]
    seen = view(embeddings, torch.zeros(4), visual=3, depth=INPUT)
    assert DARTInput(image_pivots=1, text_pivots=0).select(seen, 2).index.tolist() == [0, 2]


def test_without_a_pivot_there_is_no_method():
    with pytest.raises(ValueError, match="image_pivots=0.*choose 1 image pivot or more"):
        DART(image_pivots=0)


def test_positions_stay_original():
    assert DART().positions == "original"


@pytest.mark.parametrize("options", [{"pivot_order": "norm"}, {"budget": "official"}])
def test_a_batch_equals_its_samples_under_every_option(tiny: MLLM, pictures, options: dict[str, str]):
    questions = ["what color is the star ?", "how many ?"]
    with attach(tiny, DART(**options), 40) as trace:  # type: ignore[arg-type]
        together = tiny.answer(pictures[:2], questions, max_new_tokens=2)
        alone = [
            tiny.answer([picture], [question], max_new_tokens=2)[0]
            for picture, question in zip(pictures, questions, strict=False)
        ]
    assert together == alone and trace.samples[:2] == trace.samples[2:]
