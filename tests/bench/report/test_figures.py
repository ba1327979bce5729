"""Figures by what they draw: labels, lines and pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deap.tools import Logbook
from matplotlib.figure import Figure
from PIL import Image

from baselines import KeepAll
from baselines.fastv import FastV
from baselines.visionzip import VisionZip
from bench.evaluation.comparison import Comparison
from bench.evaluation.evaluate import Stage
from bench.report.figures import Answered, answered, by_question, grouped, side_by_side, traces, training
from bench.report.gallery import Gallery, Panel, SampleImage, jpeg, show
from bench.report.inspection import curves, look, spaces, strange_words
from bench.report.pictures import MERGED, OUTLINE, grouping, groups, overlay, save
from compress.models.loading import MLLM
from compress.samples import Sample
from evosearch import Grouping

GREY = (120, 120, 120)
TILED = (Panel(0, 2, 2, 2), Panel(4, 4, 4, 5))  # a thumbnail, and crops whose rows end in newlines


def plain(layout: tuple[Panel, ...]) -> SampleImage:
    return SampleImage(
        "one", "", "what is it ?", ("red", "red"), jpeg(Image.new("RGB", (64, 64), GREY)), layout
    )


def pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return picture.getpixel((x, y))  # type: ignore[return-value]


def pixels(axes: Any) -> np.ndarray:
    return np.asarray(axes.get_images()[0].get_array())


def drawn(figure: Figure) -> dict[tuple[int, int], tuple[str, str]]:
    """Title and answer of each picture by its place in the grid."""
    found = {}
    for axes in figure.axes:
        if axes.get_images():
            place = axes.get_subplotspec()
            assert place is not None
            found[place.rowspan.start, place.colspan.start] = (axes.get_title(), axes.get_xlabel())
    return found


# Kept tokens ------------------------------------------------------------------------------------------------


def test_dropped_tokens_are_dark_and_merged_ones_have_another_colour() -> None:
    picture = overlay(plain((Panel(0, 4, 4, 4),)), Stage(0, (0, 5), (5,)), 128)
    assert pixel(picture, 16, 16) == GREY and pixel(picture, 48, 48) == GREY
    assert max(pixel(picture, 80, 16)) < 70
    assert pixel(picture, 0, 20) == OUTLINE
    assert pixel(picture, 32, 50) == MERGED and pixel(picture, 35, 35) == MERGED  # side and corner of token 5
    everything = overlay(plain((Panel(0, 4, 4, 4),)), None, 128)
    assert everything.getcolors() == [(128 * 128, GREY)]


def test_an_image_in_tiles_is_drawn_under_its_thumbnail_and_its_crops() -> None:
    """Tokens 0 to 3 are the thumbnail's; 4 to 23 the crops', with newlines 8, 13, 18 and 23."""
    picture = overlay(plain(TILED), Stage(3, (3, 4, 9, 13, -1)), 96)
    assert picture.size == (96 + 4 + 96, 96)
    assert pixel(picture, 72, 72) == GREY and max(pixel(picture, 24, 72)) < 70
    crops = picture.crop((100, 0, 196, 96))
    bright = [(r, c) for r in range(4) for c in range(4) if pixel(crops, 24 * c + 12, 24 * r + 12) == GREY]
    assert bright == [(0, 0), (1, 0)]
    without = overlay(plain(TILED), Stage(3, (3, 4, 9, 13)), 96)
    apart = np.argwhere((np.asarray(picture) != np.asarray(without)).any(-1))
    assert len(apart) and apart[:, 1].max() < 100, "the badge of the whole image stands on the thumbnail"


def test_columns_are_methods_and_rows_are_budgets(comparison: Comparison, gallery: Gallery) -> None:
    shown = gallery["gqa"]["gqa-1"]
    runs = answered(comparison, "gqa", "gqa-1")
    figure = side_by_side(shown, runs)
    assert drawn(figure) == {
        (0, 0): ("all 16 tokens", "✓ red"),
        (0, 1): ("ours", "✓ red"), (0, 2): ("rival_1", "✓ red"), (0, 3): ("control", "✗ nothing"),
        (1, 1): ("", "✓ red"), (1, 2): ("", "✓ red"), (1, 3): ("", "✗ nothing"),
    }  # fmt: skip
    assert figure.get_suptitle() == "question 1 of gqa ? (red)"
    rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert rows == ["4 tokens", "2 tokens"]
    (ours,) = (run for run in runs if (run.method, run.keep) == ("ours", 2))
    (second,) = (axes for axes in figure.axes if axes.get_ylabel() == "2 tokens")
    assert (pixels(second) == np.asarray(overlay(shown, ours.path[-1]))).all()


def test_questions_about_one_image_are_rows_and_methods_columns(
    comparison: Comparison, gallery: Gallery
) -> None:
    asked = [gallery["gqa"][name] for name in ("gqa-1", "gqa-2")]
    runs = [[run for run in answered(comparison, "gqa", one.sample) if run.keep != 4] for one in asked]
    figure = by_question(asked, runs)
    names = {where: title for where, (title, _) in drawn(figure).items()}
    assert names[0, 0] == "question 1 of gqa ? (red)" and names[1, 0].startswith("question 2 of gqa ?")
    assert [names[0, column] for column in (1, 2, 3)] == ["ours", "rival_1", "control"]
    assert [names[1, column] for column in (1, 2, 3)] == ["", "", ""]
    (second,) = (run for run in runs[1] if run.method == "ours")
    panel = figure.axes[4 + 1]
    assert (pixels(panel) == np.asarray(overlay(asked[1], second.path[-1]))).all()


def test_without_a_right_answer_none_is_marked_and_missing_runs_leave_a_gap() -> None:
    shown = replace(plain((Panel(0, 4, 4, 4),)), answers=())
    runs = [
        Answered("a", 4, "yes", None, (Stage(0, (1, 2)),)), Answered("b", 2, "a word", 0.3, ()),
        Answered("none", 16, "no", None, ()),
    ]  # fmt: skip
    figure = side_by_side(shown, runs)
    assert drawn(figure) == {
        (0, 0): ("all 16 tokens", "no"), (0, 1): ("a", "yes"), (1, 2): ("", "0.3 a word"),
    }  # fmt: skip
    assert figure.get_suptitle() == "what is it ?"


def test_a_run_that_did_not_see_the_sample_is_left_out(comparison: Comparison) -> None:
    assert [(one.method, one.keep) for one in answered(comparison, "gqa", "gqa-1")] == [
        (row.method, row.keep) for row in comparison.rows
    ]
    assert answered(comparison, "gqa", "another") == answered(comparison, "pope", "gqa-1") == []


# Groups, searches, trainings --------------------------------------------------------------------------------


def test_groups_are_drawn_on_the_crops_without_tokens_that_lie_elsewhere() -> None:
    space = Grouping(((0, 4, 5), (8, 9), (13,), (14, 22)), items=24)
    figure = grouped(plain(TILED), {"mine": space})
    assert list(drawn(figure).values()) == [("24 tokens", ""), ("mine: 4 groups", "")]
    on_crops = Grouping(((0, 1), (4,), (8, 15)), items=16)
    expected = groups(plain(TILED).image, (4, 4), on_crops, cell=96)
    assert (pixels(figure.axes[1]) == np.asarray(expected)).all()


def test_groups_of_a_video_are_drawn_on_its_film_strip_with_dots_on_what_was_kept() -> None:
    """Three frames of 1 x 2 tokens, two beside each other; one group spans them, one is in the last."""
    film = plain((Panel(0, 1, 2, 2, 3, 2),))
    picture = grouping(film, Grouping(((0, 2, 4), (5,)), items=6), [4, 5], size=64)
    assert picture.size == (128, 64)
    first, second, third, last = (pixel(picture, *place) for place in ((8, 8), (72, 8), (4, 36), (36, 36)))
    assert first == second == third != last
    assert pixel(picture, 16, 48) == pixel(picture, 48, 48) == OUTLINE != pixel(picture, 16, 16)
    assert pixel(picture, 64, 16) == OUTLINE  # between two frames
    assert pixel(picture, 100, 50) == OUTLINE  # no frame follows
    assert max(pixel(picture, 48, 16)) < 70  # a token of no group


def logbook(*best: float) -> Logbook:
    book = Logbook()
    for number, loss in enumerate(best):
        book.record(evaluations=48 + 36 * number, best=loss, mean=9.0)
    return book


def test_searches_share_a_colour_by_strategy_and_every_seed_has_a_line() -> None:
    books = {"evolution": [logbook(3, 2, 1), logbook(4, 2, 2)], "random": [logbook(3, 3, 2.5)]}
    (axes,) = traces(books, "a question", full=0.5).axes
    *lines, full = axes.get_lines()
    assert [line.get_xydata().tolist() for line in lines] == [  # type: ignore[union-attr]
        [[48, 3], [84, 2], [120, 1]], [[48, 4], [84, 2], [120, 2]], [[48, 3], [84, 3], [120, 2.5]],
    ]  # fmt: skip
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert set(full.get_ydata()) == {0.5}  # type: ignore[arg-type]
    legend = axes.get_legend()
    named = [text.get_text() for text in legend.get_texts()] if legend else []
    assert named == ["evolution", "random", "all tokens"]


def test_trainings_show_loss_score_and_the_epoch_that_was_kept(tmp_path: Path) -> None:
    rows = "1,0.1,0.9,0.5,1\n2,0.1,0.7,0.8,1\n3,0.1,0.6,0.7,1\n"
    (tmp_path / "curves.csv").write_text("epoch,rate,loss,score,seconds\n" + rows)
    left, right = training({"mine": curves(tmp_path)}).axes
    assert left.get_lines()[0].get_xydata().tolist() == [[1, 0.9], [2, 0.7], [3, 0.6]]  # type: ignore[union-attr]
    scores, ring = right.get_lines()
    assert scores.get_xydata().tolist() == [[1, 0.5], [2, 0.8], [3, 0.7]]  # type: ignore[union-attr]
    assert ring.get_xydata().tolist() == [[2, 0.8]]  # type: ignore[union-attr]


def test_folders_without_a_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no curves.csv: give folders that evocomp train --out wrote"):
        curves(tmp_path)
    (tmp_path / "curves.csv").write_text("epoch,rate,loss,score,seconds\n")
    with pytest.raises(ValueError, match="no epoch is finished there"):
        curves(tmp_path)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_figures_are_written_as_their_names_say(name: str, start: bytes, tmp_path: Path) -> None:
    assert save(traces({"random": [logbook(1)]}), tmp_path / name).read_bytes().startswith(start)


# What they are made of --------------------------------------------------------------------------------------


def test_looking_tells_what_a_method_kept_at_each_depth(tiny: MLLM, pictures: list[Image.Image]) -> None:
    sample = Sample("one", pictures[0], "what color ?", ())
    run = look(tiny, sample, "fastv", FastV(), 60)  # its layer 2 of 32 is layer 1 of 6
    assert [(stage.depth, len(stage.kept), stage.merged) for stage in run.path] == [(1, 43, ())]
    assert (run.credit, run.method, run.keep) == (None, "fastv", 60)
    (said,) = tiny.answer([pictures[0]], ["what color ?"])
    right = replace(sample, answers=(said.upper(),))
    assert look(tiny, right, "none", KeepAll(), 144) == Answered("none", 144, said, 1.0, ())
    assert look(tiny, replace(sample, answers=("no such answer",)), "none", KeepAll(), 144).credit == 0
    (stage,) = look(tiny, sample, "visionzip", VisionZip(), 40).path
    assert 0 < len(stage.merged) < len(stage.kept) == 40
    assert set(stage.merged) < set(stage.kept)


def test_spaces_have_as_many_groups_as_tokens_are_kept(tiny: MLLM, pictures: list[Image.Image]) -> None:
    sample = Sample("one", pictures[0], "what color ?", ())
    found = spaces(tiny, sample, ["grid", "k-means:starts=1"], 12, seed=0)
    assert list(found) == ["grid", "k-means:starts=1"]
    assert all(len(space.groups) == 12 and space.items == 144 for space in found.values())
    assert show(sample, tiny).tokens == 144


def test_words_that_the_tokenizer_does_not_know_are_named(tiny: MLLM) -> None:
    assert strange_words(tiny, "what zebra is a quagga ?") == ["zebra", "quagga"]
