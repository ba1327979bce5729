"""The recipe from nothing to a model that loads, in a size that takes seconds; and from its checkpoints."""

import pytest
import torch

from compress.micro import decoder
from compress.micro.build import Recipe, build
from compress.micro.decoder import Course
from compress.micro.world import render, scene
from compress.models import load


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(decoder, "which", lambda name: None)  # compiling would take longer than the training
    courses = (
        Course("thin", "what", steps=3, steady=3, every=2, visual=32, batch=4, questions=4, text=64),
        Course("whole", "where", steps=2, steady=1, batch=4, questions=4, text=64, cells=False, thinned=0.5),
    )
    return Recipe(scenes=24, check_scenes=8, windows=2, wholes=2, places=2, align=2, courses=courses)


def test_the_recipe_makes_a_model_that_loads_and_answers(small, tmp_path):
    lines: list[str] = []
    build(small, tmp_path / "work", tmp_path / "micro", lines.append)
    mllm = load(str(tmp_path / "micro"))
    assert mllm.layers == 12 and mllm.visual_tokens == 144
    assert isinstance(
        mllm.answer([render(scene("test", 1))], ["is there a star ?"], max_new_tokens=3)[0], str
    )
    assert sum("check" in line for line in lines) == 2

    again: list[str] = []
    build(small, tmp_path / "work", tmp_path / "again", again.append)
    assert not any("check" in line for line in again)  # every stage was found finished
    assert load(str(tmp_path / "again")).fingerprint() == mllm.fingerprint()


def test_leaving_silent_layers_out_changes_nothing(small):
    from compress.micro.build import VISION

    model = decoder.new_model(VISION, width=32, inner=64, layers=4, heads=2, seed=0)
    taught = decoder.lessons("train", range(2), 0, 3)
    visual, packed = torch.randn(2, 144, 32), decoder.pack(taught)
    with torch.no_grad():
        whole = decoder.run(model, visual, packed)
        layers = model.model.language_model.layers
        model.model.language_model.layers = torch.nn.ModuleList(layers[::2])
        assert torch.equal(decoder.run(model, visual, packed), whole)
