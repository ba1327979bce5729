"""The video twin begins as `micro-qwen`, its prompts are the template's, its recipe can go on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from compress.micro.recipe import video_decoder
from compress.micro.recipe.build import build_video
from compress.micro.recipe.tower import normalise
from compress.micro.recipe.twins import qwen
from compress.micro.recipe.video_build import COURSES, VideoRecipe, video_processor
from compress.micro.recipe.video_decoder import (
    TOKENS,
    frame,
    new_video,
    see,
    shown,
    video,
    video_pixels,
)
from compress.micro.video_language import tokenizer
from compress.micro.video_world import CELLS, MOMENTS, clip, owners, paint
from compress.models.loading import MODELS, load

pytestmark = pytest.mark.skipif("micro-qwen" not in MODELS, reason="the shipped weights are not built")


@pytest.fixture(scope="module")
def elder():
    return load("micro-qwen").model


@pytest.fixture(scope="module")
def model(elder):
    return new_video(elder).eval()


@torch.no_grad()
def test_a_visual_token_begins_as_the_mean_of_four(elder, model):
    frames = paint(clip("val", 0))
    given = video(model).project(see(model, frames[None]).float())[0]
    x = normalise(torch.from_numpy(frames)).view(MOMENTS, 2, 3, 12, 2, 4, 12, 2, 4)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(MOMENTS * 576, -1)
    seen = elder.model.visual(x, grid_thw=torch.tensor([[MOMENTS, 24, 24]])).last_hidden_state
    tokens = qwen(elder).project(seen.view(MOMENTS, 576, -1))
    mean = tokens.view(MOMENTS, CELLS, 2, CELLS, 2, -1).mean((2, 4)).reshape(TOKENS, -1)
    assert (given - mean).abs().max() < 0.1 * mean.abs().mean()  # the tower ran in bfloat16


def test_pixels_are_laid_out_as_the_processor_does():
    photograph = paint(clip("val", 1))[0]
    images = video_processor().image_processor(Image.fromarray(photograph), return_tensors="pt")
    assert images["image_grid_thw"].tolist() == [[1, 24, 24]]
    twice = torch.from_numpy(np.repeat(photograph[None], 2 * MOMENTS, 0))
    assert torch.allclose(video_pixels(twice)[:576], images["pixel_values"], atol=1e-5)


def test_prompts_and_positions_are_those_of_template_and_model(model):
    talk = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "is there a star ?"}]}]
    written = video_processor().apply_chat_template(talk, add_generation_prompt=True)
    written = written.replace("<|video_pad|>", "<|video_pad|>" * TOKENS)
    ids = tokenizer()(written, return_tensors="pt").input_ids
    around, index = frame(), tokenizer().get_vocab()
    text = [index[word] for word in "is there a star ? assistant".split()]
    filled = [index["<|video_pad|>"]] * TOKENS
    assert ids[0].tolist() == [*around.before, *filled, *around.after, *text]

    kinds = 2 * (ids == index["<|video_pad|>"])
    grid = torch.tensor([[MOMENTS, 24, 24]])
    places, _ = model.model.get_rope_index(
        ids, kinds, video_grid_thw=grid, second_per_grid_ts=torch.tensor([1.0])
    )
    front = len(around.before)
    assert torch.equal(places[:, 0, front : front + TOKENS], around.places)
    assert places[:, 0, front + TOKENS].tolist() == [around.end] * 3


def test_things_are_shown_first_and_each_at_all_its_moments():
    scenes = [clip("train", seed) for seed in range(6)]
    owner = torch.from_numpy(np.stack([owners(one).ravel() for one in scenes])).long()
    kept = shown(owner, 130, 1.0, torch.Generator().manual_seed(0))
    assert kept.shape == (6, 130) and (kept.diff(dim=1) > 0).all()
    moment = torch.arange(TOKENS) // CELLS**2
    thinner = 0
    for row, keep in zip(owner, kept, strict=True):
        of = [(int(a), int(m)) for a, m in zip(row, moment, strict=True) if a >= 0]
        read = {(int(row[i]), int(moment[i])) for i in keep if row[i] >= 0}
        assert read == set(of)
        thinner += len(of) - int((row[keep] >= 0).sum())
    assert thinner > 0


@pytest.mark.slow
def test_the_recipe_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(video_decoder, "which", lambda name: None)
    courses = tuple(replace(one, steps=2, steady=1, batch=2, questions=4, text=64) for one in COURSES)
    little = VideoRecipe(shelves=2, clips=3, held=2, courses=courses)
    build_video(little, tmp_path / "work", tmp_path / "twin", lambda line: None)
    mllm = load(str(tmp_path / "twin"))
    again: list[str] = []
    build_video(little, tmp_path / "work", tmp_path / "again", again.append)
    assert all(line.startswith("check") for line in again)
    assert load(str(tmp_path / "again")).fingerprint() == mllm.fingerprint()
