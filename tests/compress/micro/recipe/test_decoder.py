"""What a decoder is taught: questions packed to an image, and thinned scenes."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPVisionConfig

from compress.micro.recipe.decoder import Lesson, TrainingModel, llava, new_model, pack, run, thin

OWNER = torch.tensor([[-1] * 100 + [0] * 30 + [1] * 13 + [2]]).expand(400, -1)


def seen(share: float) -> torch.Tensor:
    return thin(OWNER, share, torch.Generator().manual_seed(1))


def test_no_scene_is_thinned_at_share_zero():
    assert seen(0.0).all()


def test_everything_that_is_there_stays_visible():
    kept = seen(1.0)
    for thing in (-1, 0, 1, 2):
        assert (kept & (thing == OWNER)).any(1).all()


def test_each_thing_has_a_share_of_its_own_from_nearly_nothing_to_nearly_all():
    kept = seen(1.0)
    behind, thing = kept[:, :100].float().mean(1), kept[:, 100:130].float().mean(1)
    for part in (behind, thing):
        assert part.min() < 0.1 and part.max() > 0.9 and 0.4 < part.mean() < 0.6
    assert torch.corrcoef(torch.stack([behind, thing]))[0, 1].abs() < 0.2


def test_the_share_of_thinned_scenes_is_as_asked():
    assert 0.2 < (~seen(0.3).all(1)).float().mean() < 0.4


@pytest.fixture(scope="module")
def pupil() -> TrainingModel:
    """A decoder whose every layer speaks: attention and MLP of a fresh one add nothing."""
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1, image_size=96,
        patch_size=8,
    )  # fmt: skip
    model = new_model(vision, width=32, inner=32, layers=2, heads=2, seed=1)
    for layer in model.model.language_model.layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.3)
        torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.3)
    return llava(model)


LESSON = Lesson([[11, 12, 13], [21, 22], [31, 32, 33, 34]], [[14, 15, 16], [23], [35, 36]], ["a", "b", "c"])


@torch.no_grad()
def test_packed_questions_are_answered_as_if_each_were_alone(pupil):
    visual = torch.randn(1, 144, 32, generator=torch.Generator().manual_seed(2))
    together = run(pupil, visual, pack([LESSON]))
    alone = [
        run(pupil, visual, pack([Lesson([prompt], [answer], ["a"])]))
        for prompt, answer in zip(LESSON.prompts, LESSON.answers, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_every_question_weighs_the_same_however_long_its_answer():
    packed = pack([LESSON, Lesson([[41]], [[42, 43, 44, 45]], ["a"])])
    expected = [1 / 12] * 3 + [1 / 4] + [1 / 8] * 2 + [1 / 16] * 4
    assert packed.weight().tolist() == pytest.approx(expected)
    assert packed.answers().tolist() == [14, 15, 16, 23, 35, 36, 42, 43, 44, 45]
    logits = 30.0 * F.one_hot(packed.answers(), 50)
    logits[[3, 6, 7, 8, 9]] = 0.0  # the answers 23 and 42 to 45 are guesses, the others are certain
    assert packed.loss(logits).item() == pytest.approx(math.log(50) / 2)  # of two questions of four
