"""What the shipped weights must be able to do on held-out scenes: without it nothing else means anything."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from baselines import Random
from bench.evaluate import evaluate
from bench.tasks import BENCHMARKS, TASKS, Task
from compress.attach import attach
from compress.models import MODELS, load
from compress.samples import Sample

N = 80


class Open(Task):
    """Any mixture of samples, scored one by one."""

    name, metric = "all", "accuracy"

    def micro(self, n, split="test"):
        raise NotImplementedError


@pytest.fixture(scope="module")
def micro():
    return load("micro")


@pytest.fixture(scope="module")
def exam():
    return {name: (TASKS[name](), TASKS[name]().micro(N)) for name in BENCHMARKS}


def credits(mllm, exam, see=lambda image, other: image, selector=None, keep=None):
    """Credit of every sample, by (task, family); `see` says what the model is shown instead of the image."""
    scored: dict[tuple[str, str], list[float]] = {}
    for name, (task, samples) in exam.items():
        others = [*samples[8:], *samples[:8]]
        shown = [
            Sample(s.id, see(s.image, o.image), s.question, s.answers)
            for s, o in zip(samples, others, strict=True)
        ]
        outcome = evaluate(mllm, Open(), shown, selector, keep, batch=40)
        for sample, said in zip(samples, outcome.predictions, strict=True):
            scored.setdefault((name, sample.family), []).append(task.correct(sample, said))
    return scored


def mean(scored) -> float:
    flat = [credit for group in scored.values() for credit in group]
    return 100 * sum(flat) / len(flat)


@pytest.fixture(scope="module")
def seeing(micro, exam):
    return credits(micro, exam)


def test_it_answers_at_least_85_percent(seeing):
    assert mean(seeing) >= 85


def test_every_family_needs_the_image(micro, exam, seeing):
    grey = Image.new("RGB", (96, 96), (128, 128, 128))
    blind = [
        credits(micro, exam, lambda image, other: grey),
        credits(micro, exam, lambda image, other: other),
    ]
    for family, group in seeing.items():
        answers = [s.answers[0] for s in exam[family[0]][1] if s.family == family[1]]
        if len(set(answers)) < 2:
            continue  # unanswerable questions: nothing to see is the answer
        best, seen = max(sum(b[family]) / len(group) for b in blind), sum(group) / len(group)
        assert seen >= best + 0.20, f"{family}: {seen:.2f} against {best:.2f}"


def test_a_random_ninth_of_the_tokens_is_not_enough(micro, exam, seeing):
    assert mean(seeing) - mean(credits(micro, exam, selector=Random(), keep=16)) >= 15


def test_cls_looks_at_things(micro):
    """The attention of CLS that VisionZip reads falls on things at least 1.5 times more than their area."""
    from compress.micro.world import patch_labels, scene

    class Look(Random):
        tower_layers = (-2,)
        shares: list[float] = []

        def score(self, view):
            attention = view.cls(-2).sum(0)
            self.shares.append(float((attention * self.on_thing).sum() / attention.sum()))
            return super().score(view)

    look, areas = Look(), []
    for seed in range(30):
        image, owner, _ = patch_labels(scene("test", 9_000_000 + seed))
        look.depth = -1
        look.on_thing = torch.from_numpy(owner.ravel() >= 0)
        areas.append(float(look.on_thing.float().mean()))
        with attach(micro, look, 16):
            micro.answer([image], ["what color is the star ?"], max_new_tokens=1)
    assert sum(look.shares) / sum(areas) >= 1.5


def test_anchors_name_what_patches_show(micro):
    """The vocabulary word nearest to a background token is the texture's; no token is named after a cell."""
    from compress.micro.language import CELLS
    from compress.micro.world import patch_labels, scene

    words = micro.processor.tokenizer.get_vocab()
    table = torch.nn.functional.normalize(micro.decoder.embed_tokens.weight, dim=-1)
    cells = torch.tensor([words[cell] for cell in CELLS])
    on_cells, right = [], []
    for seed in range(30):
        made = scene("test", 9_000_000 + seed)
        image, owner, _ = patch_labels(made)
        embedded = micro.embed(image, "is there a star ?")
        anchors = (embedded.embeds[embedded.visual] @ table.T).argmax(-1)
        on_cells.append(torch.isin(anchors, cells).float().mean())
        right.append((anchors == words[made.texture])[torch.from_numpy(owner.ravel() < 0)].float().mean())
    assert torch.stack(on_cells).mean() < 0.01
    assert torch.stack(right).mean() > 0.9


def test_the_weights_are_small():
    sizes = [path.stat().st_size for path in Path(MODELS["micro"]).rglob("*") if path.is_file()]
    assert sum(sizes) <= 12 * 2**20
