"""The video twin begins as `micro-qwen`, its prompts are the template's, its recipe can go on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from compress.micro.recipe import video_decoder
from compress.micro.recipe.build import build_video
from compress.micro.recipe.tower import IGNORE, normalise
from compress.micro.recipe.twins import qwen
from compress.micro.recipe.video_build import COURSES, VideoRecipe, video_processor
from compress.micro.recipe.video_decoder import (
    ABSENT,
    TOKENS,
    Probe,
    frame,
    new_video,
    see,
    shown,
    some,
    video,
    video_pixels,
)
from compress.micro.video_language import tokenizer
from compress.micro.video_world import CELLS, MOMENTS, STEPS, clip, owners, paint
from compress.micro.world import COLORS
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


def test_what_is_absent_is_not_shown_while_there_is_other_to_show():
    owner = torch.from_numpy(owners(clip("train", 0)).ravel().astype(int))[None]
    absent = owner.clone()
    absent[owner == 1] = ABSENT
    room = int((absent != ABSENT).sum())
    kept = shown(absent, room, 0.5, torch.Generator().manual_seed(0))
    assert (absent[0, kept[0]] != ABSENT).all()


def test_a_part_of_a_scene_has_two_shapes_and_says_which_they_are():
    rng = torch.Generator().manual_seed(0)
    for seed in range(20):
        whole = clip("train", seed)
        for most in (2, 3, 9):
            part, numbers = some(whole, most, rng)
            assert part.actors == tuple(whole.actors[i] for i in numbers)
            assert len(numbers) == min(most, len(whole.actors))
            assert sum(one.kind != "sign" for one in part.actors) >= 2


def test_the_probe_is_told_what_a_token_can_know():
    scenes = (clip("train", seed) for seed in range(50))
    scene = next(one for one in scenes if any(actor.way for actor in one.actors))
    there = [n for n, actor in enumerate(scene.actors) if actor.way or n == 0]
    labels = Probe.labels(scene, there).reshape(MOMENTS, CELLS, CELLS, -1)
    owner = owners(scene)
    assert (labels[~np.isin(owner, there)] == IGNORE).all()
    for number in there:
        actor = scene.actors[number]
        for moment in range(actor.first, actor.last + 1):
            told = labels[moment][owner[moment] == number]
            assert (told[:, 0] == moment).all() and (told[:, 1] == actor.first).all()
            way = list(STEPS).index(actor.way) if actor.way else 4
            assert (told[:, 2] == (IGNORE if moment == actor.first else way)).all()
            assert (told[:, 3] == list(COLORS).index(actor.thing.color)).all()


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
