"""Features kept in memory, on disk or not at all: the same training, and a cache that survives anything."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaModel

from compress.compressor.network import WEIGHTS
from compress.labels import Label
from compress.models.loading import Embedded
from compress.samples import Sample
from compress.training.features import InMemory, OnDisk, cache_folder, open_features
from compress.training.run import TrainConfig, train

WIDTH, VISUAL = 16, 6
QUICK = TrainConfig(epochs=2, batch=4)


class Model:
    """Just enough of an adapter; counts how often it embeds, and can stop while it does."""

    name, processor, image_side = "counting", None, 8

    def __init__(self, fingerprint: str = "one") -> None:
        torch.manual_seed(0)
        self.decoder = LlamaModel(
            LlamaConfig(
                hidden_size=WIDTH,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                vocab_size=9,
            )
        )
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.fingerprint = lambda: fingerprint
        self.calls, self.stop_at = 0, -1

    def embed(self, image: Image.Image, question: str) -> Embedded:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(image.getpixel((0, 0))[0] + 1000 * len(question))
        rows = torch.randn(VISUAL + 3, WIDTH, generator=generator)
        nothing = torch.empty(0, dtype=torch.long)
        return Embedded(
            rows, torch.arange(2, 2 + VISUAL), len(rows), nothing, (2, 3), torch.arange(len(rows))
        )


def sample(number: int) -> Sample:
    return Sample(str(number), Image.new("RGB", (1, 1), (number, 0, 0)), "what ?", ("yes",))


SAMPLES = [sample(number) for number in range(10)]
LABELS = [Label(one.id, (int(one.id) % 5, 5), 1.0, 0.1, 0.1, 10, 0, 0.0) for one in SAMPLES]


@pytest.fixture
def said() -> Iterator[list[str]]:
    yield []


def test_however_features_are_kept_the_weights_are_the_same(tmp_path: Path, said: list[str]):
    found = {}
    for where, cache in (("memory", None), ("disk", tmp_path / "cache"), ("recompute", None)):
        train(Model(), LABELS, SAMPLES, tmp_path / where, QUICK, features=where, cache=cache, say=said.append)
        found[where] = (tmp_path / where / WEIGHTS).read_bytes()
    assert found["memory"] == found["disk"] == found["recompute"]
    size = (VISUAL + 3) * WIDTH * 2 * len(SAMPLES) / 1000
    assert said[0] == f"features of 10 samples: about {size:.3g} kB of memory in every process"
    assert f"0 of 10 samples are in {tmp_path / 'cache'}, the others need about {size:.3g} kB of" in said[1]
    assert "recomputed whenever they are used" in said[2]


def test_the_cache_serves_other_runs_and_grows_with_the_labels(tmp_path: Path, said: list[str]):
    train(Model(), LABELS[:6], SAMPLES, tmp_path / "few", QUICK, features="disk", cache=tmp_path / "cache")
    model = Model()
    train(model, LABELS, SAMPLES[::-1], tmp_path / "all", QUICK, features="disk", cache=tmp_path / "cache",
          say=said.append)  # fmt: skip
    assert "6 of 10 samples are in" in said[0]
    assert model.calls == 1 + 4  # the size of one, and what was missing
    again = Model()
    train(again, LABELS, SAMPLES, tmp_path / "again", replace(QUICK, seed=1), features="disk",
          cache=tmp_path / "cache", say=said.append)  # fmt: skip
    assert again.calls == 0 and said[1] == f"features: 10 of 10 samples are in {tmp_path / 'cache'}"


def test_an_interrupted_cache_goes_on_and_a_damaged_file_is_made_again(tmp_path: Path):
    cache, model = tmp_path / "cache", Model()
    model.stop_at = 6
    with pytest.raises(KeyboardInterrupt):
        train(model, LABELS, SAMPLES, tmp_path / "run", QUICK, features="disk", cache=cache)
    files = sorted(cache.rglob("*.safetensors"))
    assert len(files) == 4 and not list(cache.rglob("*.part"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    model = Model()
    train(model, LABELS, SAMPLES, tmp_path / "run", QUICK, features="disk", cache=cache)
    assert model.calls == 1 + 6 + 2
    train(Model(), LABELS, SAMPLES, tmp_path / "memory", QUICK)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "memory" / WEIGHTS).read_bytes()


def test_a_file_is_named_by_model_question_picture_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def made(model: Model, one: Sample) -> int:
        OnDisk(model, tmp_path).keep(one, True)
        return len(list(tmp_path.rglob("*.safetensors")))

    one = sample(1)
    assert made(Model(), one) == 1
    assert made(Model(), replace(one, id="of another store", answers=("no",))) == 1
    assert made(Model(), replace(one, question="where ?")) == 2
    assert made(Model(), sample(2)) == 3
    assert made(Model("two"), one) == 4
    monkeypatch.setattr("compress.training.features.fingerprint", lambda *starts: "other")
    assert made(Model(), one) == 5


def test_what_does_not_fit_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2e3))
    model = Model()
    with pytest.raises(
        ValueError, match="need about 2.88 kB of memory, and 100 bytes are free: keep them on"
    ):
        train(model, LABELS, SAMPLES, tmp_path / "run", QUICK)
    with pytest.raises(
        ValueError, match="need about 2.88 kB, and 2 kB are free at .*: choose another folder"
    ):
        train(model, LABELS, SAMPLES, tmp_path / "run", QUICK, features="disk", cache=tmp_path / "cache")
    assert model.calls == 2


def test_a_label_that_does_not_fit_is_an_error_before_training(tmp_path: Path):
    wrong = [*LABELS[:-1], replace(LABELS[-1], kept=(1, VISUAL))]
    for where in ("memory", "disk"):
        steps = []
        with pytest.raises(ValueError, match="'9': its label does not fit the model's 6 visual tokens"):
            train(Model(), wrong, SAMPLES, tmp_path / where, QUICK, features=where,
                  cache=tmp_path / "cache" if where == "disk" else None,
                  progress=lambda stage, *_, steps=steps: steps.append(stage))  # fmt: skip
        assert set(steps) == {"embed"}


def test_ways_to_keep_features_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="features='ram': choose one of memory, disk, recompute"):
        open_features("ram", Model(), None)
    with pytest.raises(ValueError, match="features='memory' need no folder"):
        open_features("memory", Model(), tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_features("disk", Model(), None).folder == cache_folder() == tmp_path / "evocomp" / "features"
    model = Model()
    model.embed = lambda image, question: Embedded(
        torch.full((9, 4), 1e6), torch.arange(2), 9, torch.empty(0), (1, 2), torch.arange(9)
    )
    with pytest.raises(ValueError, match="sample '1': its embeddings are not finite, or beyond float16"):
        InMemory(model).keep(sample(1), True)
