"""Every method on a video: one budget for all frames, or a line that says why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import METHODS
from baselines.videos import evenly, frames_of, newlines_of, solved
from compress.base import INPUT, VISION, ClsSelector, Selector, TowerSelector, View
from compress.compressor.evocomp import Learned
from tests.baselines.clips import FRAMES, PLACES, at_tower, clip, left

FORMS: dict[str, list[dict[str, Any]]] = {
    "dart": [{"layer": 2}], "cdpruner": [{}, {"relevance": "decoder"}], "fastvid": [{}, {"signal": "keys"}],
    "mmtok": [{}, {"features": "projected"}],
}  # fmt: skip
NO_THUMBNAIL = {"hired", "globalcom2"}
OF_VIDEOS = sorted(name for name, method in METHODS.items() if method.video)
CHOOSING = [
    (name, options)
    for name, method in METHODS.items()
    if not issubclass(method, (TowerSelector, Learned)) and name not in {"none"} | NO_THUMBNAIL
    for options in [
        *FORMS.get(name, [{}]), *([{"cls": "received"}] if issubclass(method, ClsSelector) else []),
    ]
]  # fmt: skip


def chosen(method: Selector, view: View, keep: int) -> list[Any]:
    """What every stage chooses, each seeing what the one before left."""
    counts = dict(sorted(method.schedule(len(view.hidden), keep, 32).items()))
    found: list[Any] = []
    for depth, count in counts.items():
        seen = at_tower(view) if depth == VISION else replace(view, depth=depth)
        if found:
            last = found[-1]
            seen = left(view, last.index, depth, last.tokens)
        if count < len(seen.hidden):
            found.append(method.select(seen, count))
            assert len(found[-1].index) == count
    return found


@pytest.mark.parametrize("newlines", [0, 1])
@pytest.mark.parametrize(("name", "options"), CHOOSING, ids=str)
def test_the_budget_is_of_all_frames_and_exact(name: str, options: dict[str, Any], newlines: int):
    views = [clip(newlines=newlines), clip(torch.randn(1, PLACES, 16).repeat(FRAMES, 1, 1), newlines)]
    for view in views:
        for keep in (1, 2, 3, 5, 11, 12, 13, 24, 40, 46, 47):
            for selection in chosen(METHODS[name](**options), view, keep):
                index = selection.index[selection.index >= 0]
                assert len(index.unique()) == len(index)
                assert selection.tokens is not None or selection.reordered or (index.diff() > 0).all()
                if selection.into is not None:
                    assert -1 <= selection.into.min() <= selection.into.max() < len(selection.index)


@pytest.mark.parametrize("name", sorted(NO_THUMBNAIL))
def test_methods_that_need_a_thumbnail_say_so(name: str):
    with pytest.raises(ValueError, match=f"{name} .*thumbnail of an image in tiles.* and a video has none"):
        METHODS[name]().select(at_tower(clip()), 9)


@pytest.mark.parametrize("name", OF_VIDEOS)
def test_methods_that_compare_frames_refuse_images(name: str):
    image = replace(clip(torch.randn(1, PLACES, 16)), frames=1, frame=None)
    with pytest.raises(
        ValueError, match=f"{name} chooses between the frames of a video, and this is an image"
    ):
        METHODS[name]().select(image, 5)


@pytest.mark.parametrize("name", OF_VIDEOS)
def test_methods_that_compare_frames_refuse_a_part_of_a_video(name: str):
    view = clip()
    with pytest.raises(ValueError, match=f"{name} needs all tokens of 4 frames of 3 x 4, not 40 of them"):
        METHODS[name]().select(left(view, torch.arange(40), INPUT), 5)


@pytest.mark.parametrize("name", OF_VIDEOS)
def test_newlines_stay_up_to_half_of_the_budget(name: str):
    view = clip(newlines=2)
    for keep in (2, 3, 4, 18):
        first = chosen(METHODS[name](), view, keep)[0]
        count = min(2, len(first.index) // 2)
        assert [row for row in first.index.tolist() if row >= 48] == [48, 49][:count]


@pytest.mark.parametrize(
    "name", ["cdpruner", "fastervlm", "gprune", "mmtok", "prumerge", "scope", "vispruner", "visionzip"]
)
@pytest.mark.parametrize(
    ("keep", "shares"), [(1, [0, 0, 1, 0]), (2, [0, 1, 0, 1]), (9, [2, 2, 3, 2]), (22, [5, 6, 5, 6])]
)
def test_frames_share_a_budget_equally_and_evenly_in_time(name: str, keep: int, shares: list[int]):
    """Tokens that stand for a whole frame count as well."""
    view = clip() if name == "gprune" else at_tower(clip())
    index = METHODS[name]().select(view, keep).index
    frame = torch.where(index >= 0, index // PLACES, -1).tolist()
    if name in ("prumerge", "visionzip"):
        assert frame.count(-1) == sum(share > 0 for share in shares)
        assert all(frame.count(number) == max(0, share - 1) for number, share in enumerate(shares))
    else:
        assert [frame.count(number) for number in range(FRAMES)] == shares


@pytest.mark.parametrize("name", ["fastervlm", "vispruner", "scope", "vscan", "gprune"])
def test_a_frame_keeps_what_it_would_keep_alone(name: str):
    """These methods look at one frame at a time."""
    options = {"cls": "received"} if name != "gprune" else {}
    view, method = clip(), METHODS[name](**options)
    together = method.select(view, 4 * 5)
    for number in range(FRAMES):
        rows = torch.arange(number * PLACES, (number + 1) * PLACES)
        attention, keys = view.received(0)[:, rows], view.keys(0)[rows]
        image = replace(
            left(view, rows, INPUT), index=torch.arange(PLACES), frame=None, frames=1,
            received=lambda layer, found=attention: found, keys=lambda layer, found=keys: found,
        )  # fmt: skip
        alone = METHODS[name](**options).select(image, 5)
        at = together.index // PLACES == number
        assert (together.index[at] % PLACES).tolist() == alone.index.tolist()
        if alone.tokens is not None:
            torch.testing.assert_close(together.tokens[at], alone.tokens)


def test_visionzip_passes_frames_on_one_after_the_other():
    view = at_tower(clip())
    selection = METHODS["visionzip"]().select(view, 24)
    starts = (selection.index == -1).nonzero()[:, 0].tolist()
    assert starts == [0, 6, 12, 18] and torch.equal(selection.tokens[starts], view.cls_token)
    frames = [part[1:] // PLACES for part in selection.index.split(6)]
    assert [part.unique().tolist() for part in frames] == [[0], [1], [2], [3]]


def test_shares_are_equal_where_there_is_room_and_even_in_time():
    assert evenly([5, 5, 5, 5], 9) == [2, 2, 3, 2]
    assert evenly([1, 5, 5], 8) == [1, 3, 4]
    assert evenly([0, 2, 9], 11) == [0, 2, 9]
    assert evenly([3] * 8, 3) == [0, 1, 0, 0, 1, 0, 1, 0]
    assert evenly([3, 3], 0) == [0, 0]


@pytest.mark.parametrize(
    "rule", [lambda size, ratio: int(size * ratio), lambda size, ratio: round(size * ratio)]
)
def test_a_ratio_is_solved_so_that_counts_add_up(rule):
    sizes = [7, 0, 12, 12, 3]

    def counts(ratio: float) -> list[int]:
        return [rule(size, ratio) for size in sizes]

    for keep in range(1, 35):
        found = solved(counts, sizes, keep)
        assert sum(found) == keep and all(count <= size for count, size in zip(found, sizes, strict=True))
    for step in range(101):
        exact = counts(step / 100)
        assert solved(counts, sizes, sum(exact)) == exact


def test_rows_are_of_frames_whatever_their_order():
    view = clip(newlines=1)
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    mixed = replace(view, frame=view.frame[order], hidden=view.hidden[order])
    assert (mixed.frame[frames_of(mixed, "x")] == torch.arange(4)[:, None]).all()
    assert newlines_of(mixed, 9).tolist() == (order == 48).nonzero()[:, 0].tolist()
    assert newlines_of(mixed, 1).tolist() == []
