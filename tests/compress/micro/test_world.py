"""The micro world: the same scene for ever, splits that share nothing, labels that say what is drawn."""

import hashlib

import numpy as np
import pytest

from compress.micro.world import (
    COLORS,
    SIDE,
    SPLITS,
    Photograph,
    _digit_rows,
    patch_labels,
    render,
    scene,
    spoiled,
)


def test_a_scene_is_the_same_every_time():
    once, again = render(scene("test", 5)), render(scene("test", 5))
    assert np.array_equal(np.asarray(once), np.asarray(again))
    assert scene("test", 5) == scene("test", 5) != scene("test", 6)


def test_splits_never_overlap():
    pictures = {
        split: {hashlib.sha256(render(scene(split, seed)).tobytes()).hexdigest() for seed in range(20)}
        for split in SPLITS
    }
    assert len(set.union(*pictures.values())) == 60
    rows = [set(_digit_rows(split).tolist()) for split in SPLITS]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_scenes_hold_three_to_six_separate_things():
    for seed in range(60):
        things = scene("train", seed).things
        assert 2 < len(things) < 7
        for i, a in enumerate(things):
            for b in things[:i]:
                gap_x, gap_y = abs(a.x - b.x), abs(a.y - b.y)
                assert gap_x > (a.width + b.width) / 2 or gap_y > (a.height + b.height) / 2


@pytest.mark.parametrize("seed", range(6))
def test_patch_labels_point_at_pixels_of_that_colour(seed):
    made = scene("train", seed)
    image, owner, cover = patch_labels(made)
    pixels = np.asarray(image, float).reshape(12, 8, 12, 8, 3)
    full = np.argwhere(cover > 0.9)
    assert len(full)
    for row, column in full:
        mean = pixels[row, :, column].mean((0, 1))
        said = made.things[owner[row, column]].color
        gaps = sorted(COLORS, key=lambda name: float(np.abs(np.array(COLORS[name]) - mean).sum()))
        assert said in gaps[:2]  # shading moves orange towards red


def test_a_cut_hides_one_thing_and_its_labels():
    whole = scene("test", 3)
    cut = spoiled(whole, "cut")
    assert len(cut.visible()) < len(whole.things)
    hidden = {i for i, thing in enumerate(cut.things) if thing not in cut.visible()}
    _, owner, cover = patch_labels(cut)
    assert not hidden & set(owner[cover > 0.5].ravel().tolist())


def test_a_scene_is_the_one_it_always_was():
    """Labels, records and weights hang on these pixels."""
    drawn = b"".join(render(scene(split, 7, spoil)).tobytes() for split in SPLITS for spoil in (None, "cut"))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "b39994fd911eaba3"


@pytest.mark.parametrize("spoil", [None, "blur", "dark", "cut"])
def test_a_larger_photograph_shows_the_same_scene_finer(spoil):
    made = scene("test", 4, spoil)
    small, owner, _ = patch_labels(made)
    large, finer, _ = patch_labels(made, scale=2)
    assert large.size == (192, 192) and finer.shape == (24, 24)
    gap = np.asarray(large.resize((96, 96), 4), float) - np.asarray(small, float)  # 4: the mean of four
    assert np.abs(gap).mean() < 12  # both have noise of 7
    same = finer[::2, ::2] == owner
    assert same.mean() > 0.85


@pytest.mark.parametrize("size", [(192, 96), (96, 192), (96, 288)])
def test_wide_and_tall_scenes_fill_their_size(size):
    made = [scene("test", seed, size=size) for seed in range(20)]
    image, owner, _ = patch_labels(made[0], scale=2)
    assert image.size == (2 * size[0], 2 * size[1]) and owner.shape == (size[1] // 4, size[0] // 4)
    for axis, edge in (("x", size[0]), ("y", size[1])):
        places = [getattr(thing, axis) for one in made for thing in one.things]
        assert min(places) > 0 and max(places) < edge and max(places) > 0.7 * edge
    cells = {one.cell(thing) for one in made for thing in one.things}
    assert {row for row, _ in cells} == {column for _, column in cells} == set(range(6))


def test_a_photograph_is_as_large_as_its_model_sees():
    picture = Photograph(scene("test", 2))
    assert [picture.at(side).width for side in (48, 96, 191, 192, 336)] == [96, 96, 96, 192, 288]
    assert picture() == picture.at(SIDE) == render(scene("test", 2))


def test_dark_is_darker_and_unknown_defects_are_named():
    bright, dark = (np.asarray(render(s), float).mean() for s in (scene("test", 1), scene("test", 1, "dark")))
    assert dark < 0.6 * bright
    with pytest.raises(ValueError, match="rust.*blur, dark, cut"):
        scene("test", 1, "rust")
    with pytest.raises(ValueError, match="unknown split 'exam'"):
        scene("exam", 1)


def test_photographs_of_benchmarks_are_kept_and_those_of_training_scenes_are_not():
    for split, kept in (("test", True), ("train", False)):
        first, second = (Photograph(scene(split, 3)).at(SIDE) for _ in range(2))
        assert (first is second) == kept
        assert np.array_equal(np.asarray(first), np.asarray(second))
