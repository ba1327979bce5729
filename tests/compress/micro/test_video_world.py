"""Clips follow from their seeds, show what their scenes say, and every question has one answer."""

from collections import Counter

import numpy as np
import pytest

from compress.micro.video_language import words
from compress.micro.video_questions import FAMILIES, mixture, questions_about
from compress.micro.video_world import (
    CELLS,
    FRAMES,
    GAP,
    MOMENTS,
    PER_MOMENT,
    STEPS,
    VideoScene,
    backwards,
    clip,
    film,
    owners,
    paint,
    rng_of,
)
from compress.micro.world import SIDE, SPLITS


@pytest.fixture(scope="module")
def scenes() -> list[VideoScene]:
    return [clip("val", seed) for seed in range(300)]


def test_a_clip_follows_from_split_and_seed() -> None:
    one, again = film(clip("val", 3)), film(clip("val", 3))
    assert all(np.array_equal(a, b) for a, b in zip(one.frames, again.frames, strict=True))
    assert len({repr(clip(split, 3).actors) for split in SPLITS}) == 3


def test_a_film_has_sixteen_frames_two_a_second() -> None:
    video = film(clip("val", 0))
    assert len(video.frames) == FRAMES == 16
    assert video.size == (SIDE, SIDE)
    assert video.times == tuple(n / 2 for n in range(16))


def test_frames_of_one_moment_differ_by_noise_only_and_the_sign_is_in_two_frames(
    scenes: list[VideoScene],
) -> None:
    for scene in scenes[:20]:
        frames = paint(scene).astype(float)
        same = np.abs(frames[0::PER_MOMENT] - frames[1::PER_MOMENT]).mean()
        assert same < 8
        for actor in scene.actors:
            if actor.kind == "sign":
                assert actor.first == actor.last


def test_actors_stay_in_the_image_and_apart(scenes: list[VideoScene]) -> None:
    for scene in scenes:
        for moment in range(MOMENTS):
            there = [thing for one in scene.actors if (thing := one.at(moment))]
            for i, a in enumerate(there):
                assert a.width / 2 <= a.x <= SIDE - a.width / 2
                assert a.height / 2 <= a.y <= SIDE - a.height / 2
                for b in there[:i]:
                    across = abs(a.x - b.x) - (a.width + b.width) / 2
                    down = abs(a.y - b.y) - (a.height + b.height) / 2
                    assert max(across, down) >= GAP


def test_no_color_is_of_two_actors(scenes: list[VideoScene]) -> None:
    for scene in scenes:
        colors = [color for one in scene.actors for color in one.colors]
        assert len(set(colors)) == len(colors)


def test_owners_are_where_the_picture_differs_from_its_background(scenes: list[VideoScene]) -> None:
    for scene in scenes[:10]:
        owner = owners(scene)
        empty = VideoScene(scene.split, scene.seed, (), scene.texture, scene.tone)
        far = np.abs(paint(scene).astype(float) - paint(empty)).mean(-1)
        cells = far.reshape(MOMENTS, PER_MOMENT, CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean((1, 3, 5))
        assert cells[owner >= 0].mean() > 2 * cells[owner < 0].mean()
        for number, actor in enumerate(scene.actors):
            moments = sorted(set(np.nonzero(owner == number)[0].tolist()))
            assert moments == list(range(actor.first, actor.last + 1))


def test_backwards_is_what_was_there_from_end_to_start(scenes: list[VideoScene]) -> None:
    for scene in scenes[:50]:
        assert np.array_equal(owners(backwards(scene)), owners(scene)[::-1])
        again = backwards(backwards(scene))
        assert [one.colors for one in again.actors] == [one.colors for one in scene.actors]
        assert [one.way for one in again.actors] == [one.way for one in scene.actors]


def test_questions_use_known_words_and_name_what_they_are_about(scenes: list[VideoScene]) -> None:
    known = set(words())
    for scene in scenes:
        for question in mixture(scene, rng_of("val", scene.seed, 2), 8):
            assert known.issuperset(f"{question.text} {question.answer}".split())
            assert all(0 <= i < len(scene.actors) for i in question.about)
            assert question.answer in ("zero", "no") or question.about or question.family == "choose"


def test_answers_are_balanced(scenes: list[VideoScene]) -> None:
    said: dict[str, Counter[str]] = {family: Counter() for family in FAMILIES}
    for scene in scenes:
        for question in questions_about(scene, rng_of("val", scene.seed, 2)):
            said[question.family][question.answer] += 1
    most = {family: max(count.values()) / sum(count.values()) for family, count in said.items()}
    assert most.pop("exist") < 0.58
    assert most.pop("count") < 0.42
    assert most.pop("motion") < 0.33
    assert most.pop("choose") < 0.35
    assert max(most.values()) < 0.25, most


def test_an_answer_about_time_is_what_the_tracks_say(scenes: list[VideoScene]) -> None:
    for scene in scenes:
        by_kind = {one.kind: one for one in scene.actors}
        for question in questions_about(scene, rng_of("val", scene.seed, 2)):
            said = question.text.split()
            if question.family == "order":
                a, b = (scene.actors[i] for i in question.about)
                earlier, later = sorted((a, b), key=lambda one: one.first)
                assert question.answer == (earlier if "first" in said else later).kind
            if question.family == "change":
                actor = by_kind[said[said.index("the") + 1]]
                at = actor.at(actor.first if {"first", "before"} & {*said} else actor.last)
                assert at is not None
                assert question.answer == at.color
            if question.family == "motion":
                actor = scene.actors[question.about[0]]
                start, end = actor.at(actor.first), actor.at(actor.last)
                assert start is not None
                assert end is not None
                signs = np.sign([round(end.x - start.x, 6), round(end.y - start.y, 6)]).tolist()
                assert signs == list(STEPS[question.answer])
