"""Methods of the tower on LLaVA-NeXT, whose tower sees an image as tiles of 6 x 6 patches."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from baselines import METHODS
from compress.attach.session import attach
from compress.models.loading import MLLM

QUESTIONS = ["how many ?", "what color is the star ?", "how many ?"]


@pytest.fixture(scope="module")
def images(pictures) -> list[Image.Image]:
    shapes = [(48, 48), (60, 30), (20, 70)]
    return [picture.resize(shape) for picture, shape in zip(pictures[:3], shapes, strict=True)]


def run(mllm: MLLM, images, questions) -> torch.Tensor:
    output = mllm.model.generate(
        **mllm.prepare(images, questions), max_new_tokens=4, min_new_tokens=4, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(output.logits, 1)


@pytest.mark.parametrize("name", ["tome", "mustdrop", "downsample", "pool"])
def test_images_in_tiles_are_what_they_are_alone(tiny_next: MLLM, images, name: str):
    with attach(tiny_next, METHODS[name](), 64) as trace:
        together = run(tiny_next, images, QUESTIONS)
        alone = [run(tiny_next, [images[n]], [QUESTIONS[n]])[0] for n in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=1e-4)
    assert trace.samples[:3] == trace.samples[3:]
    assert all(record.entering[0] < record.tokens for record in trace.samples)


@pytest.mark.parametrize(("name", "per_tile"), [("tome", 12), ("downsample", 12), ("mustdrop:tower", 12)])
def test_every_tile_spends_its_share_of_the_budget(tiny_next: MLLM, images, name: str, per_tile: int):
    name, _, stages = name.partition(":")
    method = METHODS[name](**({"stages": stages} if stages else {}))
    lengths: list[tuple[int, ...]] = []
    with attach(tiny_next, method, 64) as trace, torch.no_grad():  # 64 of 192, of which 180 are patches
        handle = tiny_next.tower_layers[-1].register_forward_pre_hook(
            lambda _, args: lengths.append(tuple(args[0].shape[:2]))
        )
        try:
            tiny_next.model(**tiny_next.prepare(images[:1], QUESTIONS[:1]))
        finally:
            handle.remove()
    assert lengths == [(5, 1 + per_tile)] and trace.samples[0].entering == [5 * per_tile] * tiny_next.layers


@pytest.mark.parametrize("name", ["fastervlm", "visionzip"])
def test_images_with_fewer_tokens_than_the_count_keep_all(tiny_next: MLLM, pictures, name: str):
    """The projector ran before their sizes were known, and was given nothing of them."""
    small = [picture.resize((24, 48)) for picture in pictures[:2]]  # 120 of at most 192 tokens
    untouched = run(tiny_next, small, QUESTIONS[:2])
    with attach(tiny_next, METHODS[name](), 130) as trace:
        torch.testing.assert_close(run(tiny_next, small, QUESTIONS[:2]), untouched, atol=2e-5, rtol=1e-4)
    assert [record.entering for record in trace.samples] == [[120] * tiny_next.layers] * 2


@pytest.mark.parametrize("name", ["tome", "flowcut", "downsample"])
def test_a_shortened_tower_gives_small_images_what_it_left(tiny_next: MLLM, pictures, name: str):
    images = [pictures[0], pictures[1].resize((24, 48))]
    with attach(tiny_next, METHODS[name](), 130) as trace:
        together = run(tiny_next, images, QUESTIONS[:2])
        alone = [run(tiny_next, [image], [asked])[0] for image, asked in zip(images, QUESTIONS, strict=False)]
    assert together.isfinite().all()
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=1e-4)
    assert [record.entering[0] for record in trace.samples] == [5 * 24, 3 * 24] * 2


@pytest.mark.parametrize("name", ["tome", "flowcut", "downsample", "mustdrop:tower"])
def test_less_than_one_token_of_every_tile_is_refused(tiny_next_fixed: MLLM, name: str):
    """These methods shorten all tiles alike: of 5 tiles, a budget of 1 would leave none."""
    name, _, stages = name.partition(":")
    method = METHODS[name](**({"stages": stages} if stages else {}))
    with pytest.raises(ValueError, match="keep=0.* budget"), attach(tiny_next_fixed, method, 1):
        pass
