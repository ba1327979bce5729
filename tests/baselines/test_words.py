"""Tokens like the words of the question, alone and with a cover."""

from __future__ import annotations

import pytest
import torch

from baselines.words import Words, WordsCover
from compress.base import View

RED, SIGN, GROUND, STAR = torch.eye(8)[:4]


def view(before: int = 1) -> View:
    """Four tokens of what the question names, two of the ground and two of a star; BOS is like the star."""
    visual = torch.stack([RED, RED + 0.1 * SIGN, RED + 0.2 * SIGN, SIGN, GROUND, GROUND, STAR, STAR])
    return View(
        depth=0, hidden=visual, visual=visual, text=torch.stack([STAR, RED, SIGN]),
        index=torch.arange(8), grid=(2, 4), before=before,
    )  # fmt: skip


def test_tokens_like_a_word_behind_the_image_stay() -> None:
    assert Words().select(view(), 4).index.tolist() == [0, 1, 2, 3]


def test_half_of_the_budget_covers_what_the_words_do_not() -> None:
    # The words take 0 and 3, which also cover 1 and 2: ground and star are left to cover.
    assert WordsCover().select(view(), 4).index.tolist() == [0, 3, 4, 6]


def test_a_prompt_without_words_behind_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="put the question there"):
        Words().select(view(before=3), 4)


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_is_above_zero_and_at_most_one(share: float) -> None:
    with pytest.raises(ValueError, match=f"share={share}"):
        Words(share)
