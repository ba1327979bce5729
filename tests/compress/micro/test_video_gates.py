"""What makes clips worth compressing: they need more than one frame, and few of their tokens."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.micro.questions import Question
from compress.micro.recipe.busy_decoder import lesson, right_answers
from compress.micro.recipe.decoder import pack, run
from compress.micro.recipe.video_decoder import TOKENS, see, video
from compress.micro.video_language import tokenizer
from compress.micro.video_questions import FAMILIES
from compress.micro.video_world import (
    CELLS,
    FRAMES,
    MOMENTS,
    VideoScene,
    clip,
    film,
    owners,
    paint,
    rng_of,
)
from compress.models.loading import MODELS, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("micro-video" not in MODELS, reason="the video model is not built"),
]
CLIPS = 120
TIMED = ("count", "motion", "order", "entry", "change", "needle")
FEW = TOKENS // 10


@dataclass(frozen=True)
class Exam:
    """Clips of the test split with one question of every family that they offer."""

    scenes: list[VideoScene]
    frames: list[np.ndarray]
    asked: list[list[Question]]


@pytest.fixture(scope="module")
def mllm():
    return load("micro-video")


@pytest.fixture(scope="module")
def pupil(mllm):
    return video(mllm.model)


@pytest.fixture(scope="module")
def exam() -> Exam:
    scenes = [clip("test", seed) for seed in range(CLIPS)]
    asked = []
    for scene in scenes:
        rng = rng_of("test", scene.seed, 2)
        asked.append([q for ask in FAMILIES.values() if (q := ask(scene, rng))])
    return Exam(scenes, [paint(scene) for scene in scenes], asked)


@torch.no_grad()
def credits(pupil, exam: Exam, change=lambda frames, other: frames, keep=None) -> dict[str, float]:
    """Share of right answers by family. `change` says what is shown instead of a clip, from it and another
    one; `keep(scene, question)` [K] which visual tokens are there, with one question at a time.
    """
    tok, right = tokenizer(), {}
    for start in range(0, CLIPS, 8):
        part = range(start, start + 8)
        shown = [change(exam.frames[i], exam.frames[(i + 5) % CLIPS]) for i in part]
        features = see(pupil.model, np.stack(shown)).float()
        rows: list[tuple[int, list[Question]]] = [(i, exam.asked[i]) for i in part]
        kept: Tensor | None = None
        if keep is not None:
            rows = [(i, [q]) for i in part for q in exam.asked[i]]
            kept = torch.stack([keep(exam.scenes[i], q) for i, (q,) in rows])
        visual = pupil.project(features)[[i - start for i, _ in rows]]
        asked = [q for _, q in rows]
        packed = pack([lesson(q, tok.get_vocab(), tok.eos_token_id) for q in asked])
        for family, good in right_answers(asked, packed, run(pupil, visual, packed, kept)):
            right.setdefault(family, []).append(good)
    shares = {family: 100 * float(np.mean(right[family])) for family in FAMILIES}
    print(f"mean {mean(shares):.1f}", *(f"{family} {share:.0f}" for family, share in shares.items()))
    return shares


@pytest.fixture(scope="module")
def seeing(pupil, exam):
    return credits(pupil, exam)


def mean(shares: dict[str, float]) -> float:
    return sum(shares.values()) / len(shares)


def test_it_answers_most_questions_of_every_family(seeing):
    assert mean(seeing) >= 85
    assert min(seeing.values()) >= 65, seeing


def test_every_family_needs_the_clip(pupil, exam, seeing):
    """It is shown a grey clip, and one that another question is about."""
    grey = credits(pupil, exam, lambda frames, other: np.full_like(frames, 128))
    other = credits(pupil, exam, lambda frames, other: other)
    for family, share in seeing.items():
        assert share >= max(grey[family], other[family]) + 20, family


def test_families_about_time_need_more_than_one_frame(pupil, exam, seeing):
    """It is shown the frame in the middle sixteen times."""
    still = credits(pupil, exam, lambda frames, other: np.repeat(frames[FRAMES // 2][None], FRAMES, 0))
    for family in TIMED:
        assert seeing[family] >= still[family] + 15, family


def oracle(scene: VideoScene, question: Question) -> Tensor:
    """Tokens of what is asked about: of each thing one at each of its moments, then more, then any."""
    rng = torch.Generator().manual_seed(scene.seed)
    owner = torch.from_numpy(owners(scene).astype(int)).view(MOMENTS, CELLS**2)
    score = torch.rand(owner.shape, generator=rng)
    for thing in question.about:
        mine = owner == thing
        order = torch.where(mine, score, -1.0).argsort(1, descending=True).argsort(1)
        score = torch.where(mine, score + 100 - order, score)
    return score.flatten().topk(FEW).indices.sort().values


def scattered(scene: VideoScene, question: Question) -> Tensor:
    rng = torch.Generator().manual_seed(scene.seed)
    return torch.randperm(TOKENS, generator=rng)[:FEW].sort().values


def test_a_tenth_at_random_is_not_enough_and_a_tenth_that_is_asked_about_is(pupil, exam, seeing):
    whole = mean(seeing)
    assert mean(credits(pupil, exam, keep=scattered)) <= whole - 15
    assert mean(credits(pupil, exam, keep=oracle)) >= whole - 5


def test_the_adapter_reads_films_as_well(mllm, exam, pupil, seeing):
    few = range(12)
    films = [film(exam.scenes[i]) for i in few for _ in exam.asked[i]]
    asked = [question for i in few for question in exam.asked[i]]
    said = mllm.answer(films, [question.text for question in asked], max_new_tokens=3)
    right = [answer == question.answer for answer, question in zip(said, asked, strict=True)]
    assert np.mean(right) >= 0.8


def test_the_weights_are_small():
    sizes = [path.stat().st_size for path in MODELS["micro-video"].rglob("*") if path.is_file()]
    assert sum(sizes) <= 6 * 2**20
