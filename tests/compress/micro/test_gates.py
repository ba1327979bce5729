"""What the shipped weights must be able to do on held-out scenes: without it nothing else means anything."""

from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from baselines import METHODS, Random
from bench.evaluation.compressors import selector_for
from bench.evaluation.evaluate import evaluate
from bench.evaluation.question import sensitivity, tokens_asked
from bench.evaluation.stats import mean_interval
from bench.tasks import BENCHMARKS, TASKS, Task
from compress.attach.session import attach
from compress.base import Scorer
from compress.micro.recipe.tower import label_scene
from compress.micro.world import scene
from compress.micro.worlds import world_of
from compress.models.loading import MODELS, load
from compress.samples import Sample

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Gate:
    """What one model is held to."""

    name: str
    accuracy: float = 85
    few: int = 16  # a ninth of the visual tokens, a random choice of which costs
    cost: float = 15
    questions: int = 80  # of each benchmark
    textures: float = 0.9  # share of background tokens whose nearest word is their texture
    mib: float = 6

    def __str__(self) -> str:
        return self.name


GATES = (
    Gate("micro", mib=12),
    Gate("micro-next", few=40, cost=13, questions=40),
    Gate("micro-qwen", questions=40, textures=0.55),
    Gate("micro-qwen3", questions=40, textures=0.4),
    Gate("micro-wide"),
    Gate("busy", few=64, cost=25, questions=60, mib=12),
)


class Open(Task):
    """Any mixture of samples, scored one by one."""

    name, metric = "all", "accuracy"

    def micro(self, n, split="test"):
        raise NotImplementedError


@pytest.fixture(
    scope="module",
    params=[gate for gate in GATES if gate.name in MODELS],
    ids=str,
)
def gate(request):
    return request.param


@pytest.fixture(scope="module")
def mllm(gate):
    return load(gate.name)


@pytest.fixture(scope="module")
def exam(gate):
    """As many samples of each benchmark, whatever a question's rotations."""
    tasks = {name: TASKS[name]() for name in BENCHMARKS}
    world = world_of(gate.name)
    return {
        name: (task, task.micro(gate.questions, world=world)[: gate.questions])
        for name, task in tasks.items()
    }


def credits(mllm, exam, see=lambda picture, other: picture, make=lambda samples: None, keep=None):
    """Credit of every sample, by (task, family); `see` says what the model is shown instead, `make` which
    selector chooses the tokens of a benchmark's samples."""
    scored: dict[tuple[str, str], list[float]] = {}
    for name, (task, samples) in exam.items():
        if not samples:
            continue
        others = [*samples[8:], *samples[:8]]
        shown = [
            Sample(s.id, see(s.picture, o.picture), s.question, s.answers, s.task, s.family, s.info)
            for s, o in zip(samples, others, strict=True)
        ]
        outcome = evaluate(mllm, Open(), shown, make(samples), keep)
        for sample, said in zip(samples, outcome.predictions, strict=True):
            scored.setdefault((name, sample.family), []).append(task.correct(sample, said))
    return scored


def flat(scored) -> np.ndarray:
    """[questions] in points."""
    return 100 * np.array([credit for group in scored.values() for credit in group])


def mean(scored) -> float:
    return float(flat(scored).mean())


@pytest.fixture(scope="module")
def seeing(mllm, exam):
    return credits(mllm, exam)


def test_it_answers_most_questions(gate, seeing):
    assert mean(seeing) >= gate.accuracy


def test_every_family_needs_the_image(gate, mllm, exam, seeing):
    """It is shown the image of another question instead, and the micro model a grey one too."""
    grey = Image.new("RGB", (mllm.image_side, mllm.image_side), (128, 128, 128))
    tested = {name: (task, telling(samples)) for name, (task, samples) in exam.items()}
    blind = [credits(mllm, tested, lambda picture, other: other)]
    if gate.name == "micro":
        blind.append(credits(mllm, tested, lambda picture, other: grey))
    assert len(blind[0]) >= 7
    for family in blind[0]:
        best, seen = (max(fmean(one[family]) for one in some) for some in (blind, [seeing]))
        assert seen >= best + 0.20, f"{family}: {seen:.2f} against {best:.2f}"


ENOUGH = 12  # questions of a family; fewer are answered right by chance too often


def telling(samples):
    """The samples of families with enough questions. Where all answers are the same (unanswerable questions),
    nothing to see is the answer."""
    families = {s.family: [o for o in samples if o.family == s.family] for s in samples}
    told = {f for f, of in families.items() if len(of) >= ENOUGH and len({o.answers[0] for o in of}) > 1}
    return [s for s in samples if s.family in told]


def test_a_few_random_tokens_are_not_enough(gate, mllm, exam, seeing):
    few = credits(mllm, exam, make=lambda samples: Random(draws=1), keep=gate.few)
    assert mean(seeing) - mean(few) >= gate.cost


# In the busy world what is asked decides which tokens matter ------------------------------------------------

busy = pytest.mark.parametrize("gate", [one for one in GATES if one.name == "busy"], indirect=True, ids=str)


class Oracle(Scorer):
    """Keeps the tokens of the things that are asked about, and random others."""

    def __init__(self, samples):
        self.left, self.rng = iter(samples), torch.Generator().manual_seed(0)

    def score(self, view):
        shown = tokens_asked(next(self.left), len(view.index))
        score = torch.rand(len(view.index), generator=self.rng)
        return score if shown is None else score + torch.from_numpy(shown[0]).float()


@busy
def test_the_tokens_of_what_is_asked_are_enough(mllm, exam, seeing):
    assert mean(credits(mllm, exam, make=Oracle, keep=64)) >= mean(seeing) - 1


# At 64 tokens each is meant to cost 10 points. A cover costs 9.7 on an Intel Xeon and 9.0 on an AMD EPYC:
# rounding decides between tokens that are nearly equal.
COSTS = {"cover": 8, "farthest": 10, "pool": 10, "grid": 10}


@busy
@pytest.mark.parametrize("name", COSTS)
def test_no_choice_that_ignores_the_question_is_enough(mllm, exam, seeing, name):
    few, more = (credits(mllm, exam, make=lambda samples: METHODS[name](), keep=keep) for keep in (64, 128))
    assert mean(seeing) - mean(few) >= COSTS[name]
    assert mean_interval(flat(seeing) - flat(more)).low > 0


# In all worlds ----------------------------------------------------------------------------------------------

learned = pytest.mark.parametrize(
    "gate", [one for one in GATES if one.name in ("micro", "busy")], indirect=True, ids=str
)


@learned
def test_the_shipped_compressor_follows_the_question(mllm, gate):
    samples = TASKS["scenes"]().micro(240, "test", world=world_of(gate.name))
    found = sensitivity(mllm, selector_for("evocomp+", gate.name), gate.few, samples)
    assert found.own.difference >= 0.9 and found.gain.difference >= 0.3


def test_cls_looks_at_things(mllm):
    """The attention of CLS that VisionZip reads falls on things at least 1.5 times more than their area."""
    if not mllm.clip_tower:
        pytest.skip("its tower has no CLS")

    class Look(Random):
        tower_layers = (-2,)
        shares: list[float] = []

        def score(self, view):
            attention = view.cls(-2).sum(0)
            self.shares.append(float((attention * self.on_thing[view.index]).sum() / attention.sum()))
            return super().score(view)

    look, areas = Look(), []
    look.depth = -1
    for seed in SEEDS:
        image, owner = photographed(mllm, seed)
        look.on_thing = owner >= 0
        areas.append(float(look.on_thing.float().mean()))
        with attach(mllm, look, 16):
            mllm.answer([image], ["what color is the star ?"], max_new_tokens=1)
    assert sum(look.shares) / sum(areas) >= 1.5


SEEDS = range(9_000_000, 9_000_030)


def photographed(mllm, seed):
    """The photograph of a test scene, and [N] the thing of each visual token: -1 background, -2 a newline."""
    world = world_of(mllm.name)
    made = world.scene("test", seed)
    image = world.photograph(made).at(mllm.image_side)
    (picture,) = mllm.pictures(mllm.prepare([image], ["is there a star ?"]))
    whole = picture.tiles == 1
    owner = torch.from_numpy(world.owners(made).astype(int) if whole else label_scene(made, tiled=True)[3])
    patch = picture.tile * mllm.tile_tokens + picture.patch
    return image, torch.where(patch < 0, -2, owner[patch.clamp(min=0)])


def test_anchors_name_what_patches_show(gate, mllm):
    """The vocabulary word nearest to a background token is the texture's; no token is named after a cell."""
    from compress.micro.language import CELLS

    if gate.name == "busy":
        pytest.skip("its scenes have several grounds, and no word for cells")

    words = mllm.processor.tokenizer.get_vocab()
    table = torch.nn.functional.normalize(mllm.decoder.embed_tokens.weight, dim=-1)
    cells = torch.tensor([words[cell] for cell in CELLS])
    on_cells, right = [], []
    for seed in SEEDS:
        image, owner = photographed(mllm, seed)
        embedded = mllm.embed(image, "is there a star ?")
        anchors = (embedded.embeds[embedded.visual] @ table.T).argmax(-1)
        on_cells.append(torch.isin(anchors, cells).float().mean())
        right.append((anchors == words[scene("test", seed).texture])[owner == -1].float().mean())
    assert torch.stack(on_cells).mean() < 0.01
    assert torch.stack(right).mean() > gate.textures


def test_the_weights_are_small(gate):
    sizes = [path.stat().st_size for path in MODELS[gate.name].rglob("*") if path.is_file()]
    assert sum(sizes) <= gate.mib * 2**20
