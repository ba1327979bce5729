from __future__ import annotations

import pytest
import torch
from PIL.Image import Image

from baselines.mmtok import MMTok, keywords
from compress.attach.session import attach
from compress.models.loading import MLLM


def test_stop_words_and_formats_of_benchmarks_are_left_out():
    asked = "What color is the star?\nAnswer the question using a single word or phrase."
    assert keywords(asked) == ["color", "star"]
    assert keywords("What is it?") == ["What", "is", "it?"]
    assert keywords(" ") == []


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_kept_patches_cover_greedily_what_official_formulas_say(alpha: float):
    torch.manual_seed(0)
    words, projected, features = torch.randn(3, 8), torch.randn(40, 8), torch.randn(40, 6)

    def shares(covered: torch.Tensor, covering: torch.Tensor, temperature: float) -> torch.Tensor:
        cosine = torch.cosine_similarity(covered[:, None], covering[None], dim=-1)
        return (cosine / temperature).exp() / (cosine / temperature).exp().sum(1, keepdim=True) / len(covered)

    both = torch.cat([shares(words, projected, 0.3), alpha * shares(features, features, 0.2)])
    kept: list[int] = []
    for _ in range(7):
        reached = [-1.0 if i in kept else float(both[:, [*kept, i]].amax(1).sum()) for i in range(40)]
        kept.append(max(range(40), key=lambda i: reached[i]))
    method = MMTok(alpha, text_temperature=0.3)  # with the default the words alone decide first
    assert method.order(words, projected, features, 7).tolist() == kept


def test_without_alpha_the_first_patch_is_the_one_most_like_a_word():
    projected = torch.eye(5)
    assert MMTok(alpha=0.0).order(projected[[3]], projected, projected, 1).tolist() == [3]


@pytest.mark.parametrize("features", ["tower", "projected"])
def test_another_question_keeps_other_tokens(tiny: MLLM, pictures: list[Image], features: str):
    asked = ["what color is the circle ?", "is there a square ?", "what color is the circle ?"]
    with attach(tiny, MMTok(features=features), 9) as trace:
        tiny.answer([pictures[0]] * 3, asked, max_new_tokens=1)
    kept = [next(iter(one.kept.values())) for one in trace.samples]
    assert kept[0] == kept[2] != kept[1] and all(len(one) == 9 for one in kept)


def test_no_question_is_an_error(tiny: MLLM, pictures: list[Image]):
    inputs = tiny.encode(pictures[:1], ["<image>"])
    with attach(tiny, MMTok(), 9), pytest.raises(ValueError, match="MMTok reads the question: ask one"):
        tiny.model.generate(**inputs, max_new_tokens=1)


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"text_temperature": 0}, {"vision_temperature": -0.1}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="choose"):
        MMTok(**wrong)
