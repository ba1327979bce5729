"""The recipes from nothing to models that load, in a size that takes seconds; and from their checkpoints."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from compress.micro.recipe import busy_decoder, decoder
from compress.micro.recipe.build import (
    VISION,
    MicroRecipe,
    build_busy,
    build_micro,
    build_next,
    build_qwen,
    build_qwen3,
    build_wide,
)
from compress.micro.recipe.busy_build import COURSES, BusyRecipe
from compress.micro.recipe.decoder import TeachingStage
from compress.micro.recipe.tower import SceneBatch, training_row
from compress.micro.world import Photograph, scene
from compress.models.loading import MODELS, load


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(decoder, "which", lambda name: None)  # compiling would take longer than the training
    courses = (
        TeachingStage("thin", "what", steps=3, steady=3, every=2, visual=32, batch=4, questions=4, text=64),
        TeachingStage(
            "whole", "where", steps=2, steady=1, batch=4, questions=4, text=64, cells=False, thinned=0.5
        ),
    )
    return MicroRecipe(scenes=24, check_scenes=8, windows=2, wholes=2, places=2, align=2, courses=courses)


@pytest.mark.slow
def test_the_recipe_makes_a_model_that_loads_and_answers(small, tmp_path):
    lines: list[str] = []
    build_micro(small, tmp_path / "work", tmp_path / "micro", lines.append)
    mllm = load(str(tmp_path / "micro"))
    assert mllm.layers == 12 and mllm.visual_tokens == 144
    assert isinstance(ask(mllm), str)
    assert sum("check" in line for line in lines) == 2

    again: list[str] = []
    build_micro(small, tmp_path / "work", tmp_path / "again", again.append)
    assert not any("check" in line for line in again)  # every stage was found finished
    assert load(str(tmp_path / "again")).fingerprint() == mllm.fingerprint()


def ask(mllm):
    picture = Photograph(scene("test", 1)).at(mllm.image_side)
    return mllm.answer([picture], ["is there a star ?"], max_new_tokens=3)[0]


def prepare(recipe, work, tiled):
    """What other processes would make: importing everything in each takes longer than the rest."""
    work.mkdir()
    for name, split, count in (("scenes", "train", recipe.scenes), ("check", "val", recipe.check_scenes)):
        rows = [training_row(split, seed, tiled) for seed in range(count)]
        np.savez(work / name, **vars(SceneBatch(*map(np.stack, zip(*rows, strict=True)))))
    for course in recipe.courses:
        made = decoder.lessons("train", range(recipe.scenes), 0, course.questions, course.mixture)
        (work / f"lessons-{course.mixture}-0.pkl").write_bytes(pickle.dumps(made))


@pytest.mark.slow
@pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")
@pytest.mark.parametrize(
    ("build", "tokens", "width"),
    [(build_next, 744, 96), (build_qwen, 144, 120), (build_qwen3, 144, 128), (build_wide, 144, 144)],
)
def test_the_twins_recipes_do_too(build, tokens, width, small, tmp_path):
    last = TeachingStage(
        "last", "where", steps=2, steady=1, batch=2, visual=40, questions=4, text=64, cells=False, thinned=0.5
    )
    first = replace(last, name="first", half=True)
    courses = (first, last) if build is build_qwen3 else (last,)
    recipe = replace(small, scenes=6, check_scenes=2, imitate=2, align=0, courses=courses)
    prepare(recipe, tmp_path / "work", tiled=build is build_next)
    build(recipe, tmp_path / "work", tmp_path / "twin", lambda line: None)
    mllm = load(str(tmp_path / "twin"))
    assert (mllm.visual_tokens, mllm.decoder.config.hidden_size) == (tokens, width)
    assert isinstance(ask(mllm), str)
    rebuilt = partial(build, recipe, tmp_path / "work", tmp_path / "again")
    rebuilt(lambda line: pytest.fail(line) if "check" in line else None)
    assert load(str(tmp_path / "again")).fingerprint() == mllm.fingerprint()


def test_leaving_silent_layers_out_changes_nothing(small):
    model = decoder.new_model(VISION, width=32, inner=64, layers=4, heads=2, seed=0)
    taught, pupil = decoder.lessons("train", range(2), 0, 3), decoder.llava(model)
    visual, packed = torch.randn(2, 144, 32), decoder.pack(taught)
    with torch.no_grad():
        whole = decoder.run(pupil, visual, packed)
        layers = model.model.language_model.layers
        model.model.language_model.layers = torch.nn.ModuleList(layers[::2])
        assert torch.equal(decoder.run(pupil, visual, packed), whole)


@pytest.mark.slow
def test_the_recipe_of_the_busy_model_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setattr(busy_decoder, "which", lambda name: None)
    courses = tuple(replace(one, steps=2, steady=1, batch=2, questions=4, text=64) for one in COURSES[-2:])
    little = BusyRecipe(
        scenes=12, windows=2, wholes=2, books=2, pages=4, courses=courses, text_scenes=4, text_steps=5
    )
    lines: list[str] = []
    build_busy(little, tmp_path / "work", tmp_path / "busy", lines.append)
    mllm = load(str(tmp_path / "busy"))
    assert mllm.layers == 12 and mllm.visual_tokens == 576 and mllm.decoder.config.head_dim == 32
    assert len(lines) == 4

    again: list[str] = []
    build_busy(little, tmp_path / "work", tmp_path / "again", again.append)
    assert not any("text" not in line for line in again)  # the text tower alone is trained again
    assert load(str(tmp_path / "again")).fingerprint() == mllm.fingerprint()
