"""EvoComp+ on hand-made tokens: covering relevance, one token at a time."""

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress import coverage
from compress.base import Selector, View
from compress.compressor.evocomp_plus import EvoCompPlus
from compress.coverage import cover


def alike(*groups: int) -> torch.Tensor:
    """Tokens of the same group are equal, others have nothing in common."""
    of = torch.tensor(groups)
    return (of[:, None] == of).float()


def test_a_thing_is_taken_once_and_the_next_token_goes_to_another_thing():
    relevance = torch.tensor([0.9, 0.8, 0.3])
    assert cover(relevance, alike(0, 0, 1), 2).tolist() == [0, 2]


def test_many_tokens_of_little_relevance_outweigh_one_of_much():
    relevance = torch.tensor([0.5, 0.2, 0.2, 0.2])
    assert cover(relevance, alike(0, 1, 1, 1), 2).tolist() == [1, 0]


def test_what_nothing_finds_relevant_comes_last():
    assert cover(torch.tensor([0.0, 0.1, 0.2]), alike(0, 1, 2), 2).tolist() == [2, 1]


def test_each_step_adds_most_and_the_whole_is_near_the_best_set():
    torch.manual_seed(0)
    for _ in range(20):
        relevance, points = torch.rand(9), torch.randn(9, 3)
        likeness = torch.cosine_similarity(points[:, None], points[None], dim=-1).clamp(min=0)

        def worth(kept: tuple[int, ...], likeness=likeness, relevance=relevance) -> float:
            return float(likeness[list(kept)].max(0).values @ relevance)

        chosen = cover(relevance, likeness, 3).tolist()
        for step in range(3):
            rest = set(range(9)) - set(chosen[:step])
            best = max(worth((*chosen[:step], one)) for one in rest)
            assert worth(tuple(chosen[: step + 1])) == pytest.approx(best)
        assert worth(tuple(chosen)) >= (1 - 1 / torch.e) * max(map(worth, combinations(range(9), 3)))


def test_equal_tokens_are_taken_once_each_and_in_order():
    assert cover(torch.ones(4), torch.ones(4, 4), 4).tolist() == [0, 1, 2, 3]
    assert cover(torch.zeros(3), torch.ones(3, 3), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lazy", [("cpu",), ()], ids=["few gains", "all gains, as on a GPU"])
def test_the_choice_is_that_of_a_plain_loop(
    weighted: bool, lazy: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "LAZY", lazy)
    torch.manual_seed(0)
    features, relevance = torch.randn(150, 8).round(), torch.rand(150)
    likeness = torch.cosine_similarity(features[:, None], features[None], dim=-1).clamp(min=0)
    kept, saliency = torch.tensor([3, 70]), torch.rand(150) if weighted else None
    chosen, covered = kept.tolist(), likeness[kept].amax(0)
    for _ in range(100):
        gain = (likeness - covered).clamp(min=0) @ relevance * (1 if saliency is None else saliency)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        covered = covered.maximum(likeness[chosen[-1]])
    assert cover(relevance, likeness, 100, kept, saliency).tolist() == chosen[2:]


def test_the_layer_scales_with_depth_and_zero_is_the_input():
    def acts(**options: int) -> tuple[int, ...]:
        method: Selector = EvoCompPlus("a folder", **options)
        return tuple(next(iter(method.schedule(144, 16, layers))) for layers in (32, 12))

    assert acts() == (0, 0)
    assert acts(layer=2) == (2, 1)


@pytest.mark.parametrize("sharpness", [0, -1])
def test_a_sharpness_that_is_not_positive_is_refused(sharpness: float):
    with pytest.raises(ValueError, match="not positive"):
        EvoCompPlus("a folder", sharpness=sharpness)


def seen(monkeypatch: pytest.MonkeyPatch, logits: list[float], **other: Any) -> View:
    """A view of images or frames of 2 x 3 tokens, to which the network gives these logits."""
    monkeypatch.setattr(EvoCompPlus, "_running", {(torch.float32, torch.device("cpu")): SimpleNamespace(
        score=lambda tokens: torch.tensor(logits)
    )})  # fmt: skip
    some = torch.eye(len(logits))
    index = torch.arange(len(logits))
    return View(depth=0, hidden=some, visual=some, text=some[:1], index=index, grid=(2, 3), **other)


CORNER = [30.0, -30, -30, -30, -30, -30]
SHARED = [5 / 8, 1 / 12, 0, 1 / 8, 1 / 12, 0]


def test_relevance_is_half_that_of_the_neighbours_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    view = seen(monkeypatch, CORNER)
    assert EvoCompPlus("a folder", near=0).score(view).tolist() == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-6)
    assert EvoCompPlus("a folder").score(view).tolist() == pytest.approx(SHARED, abs=1e-6)


def test_a_frame_shares_nothing_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    view = seen(monkeypatch, [*CORNER, *[-30.0] * 6], frames=2, frame=torch.arange(12) // 6)
    assert EvoCompPlus("a folder").score(view).tolist() == pytest.approx(SHARED + [0] * 6, abs=1e-6)


@pytest.mark.parametrize(
    "logits, other", [(CORNER[:5], {}), (CORNER, {"crop": torch.zeros(6, dtype=torch.long)})]
)
def test_tokens_of_no_whole_grid_keep_their_own(
    logits: list[float], other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = EvoCompPlus("a folder").score(seen(monkeypatch, logits, **other))
    assert found.tolist() == pytest.approx([1] + [0] * (len(logits) - 1), abs=1e-6)


def test_near_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match="near=-1: choose 0 or more"):
        EvoCompPlus("a folder", near=-1)
