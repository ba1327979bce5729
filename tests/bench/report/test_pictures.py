from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from deap.tools import Logbook
from PIL import Image

from bench.evaluation.comparison import Comparison, ComparisonRow
from bench.report.pictures import color, fronts, groups, kept_tokens, png, save, seen, trace
from evosearch import Grouping

GRID, CELL = (3, 4), 24


@pytest.fixture()
def image() -> Image.Image:
    """Twelve squares of different strong colours, 16 pixels each."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    for index in range(12):
        row, column = divmod(index, 4)
        pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = (200, 20 * index, 255 - 20 * index)
    return Image.fromarray(pixels)


def middle(picture: Image.Image, index: int, shift: int = 0) -> tuple[int, ...]:
    """The colour inside a token; `shift` goes off its very centre."""
    row, column = divmod(index, GRID[1])
    point = column * CELL + CELL // 2 + shift, row * CELL + CELL // 2 + shift
    return picture.getpixel(point)  # type: ignore[return-value]


def corner(picture: Image.Image, index: int) -> tuple[int, ...]:
    row, column = divmod(index, GRID[1])
    return picture.getpixel((column * CELL + 2, row * CELL + 2))  # type: ignore[return-value]


def test_kept_tokens_stay_as_they_are_and_dropped_ones_turn_grey_and_dark(image: Image.Image) -> None:
    picture = kept_tokens(image, GRID, [1, 6, 11], cell=CELL)
    plain = seen(image, GRID, CELL)
    assert picture.size == (4 * CELL, 3 * CELL)
    for index in range(12):
        red, green, blue = middle(picture, index)
        if index in (1, 6, 11):
            assert (red, green, blue) == middle(plain, index)
        else:
            assert max(red, green, blue) - min(red, green, blue) <= 3
            assert max(red, green, blue) < 80


def test_merged_tokens_are_marked(image: Image.Image) -> None:
    plain = kept_tokens(image, GRID, [1, 6], cell=CELL)
    marked = kept_tokens(image, GRID, [1, 6], merged=[6], cell=CELL)
    assert corner(marked, 6) != corner(plain, 6)
    assert corner(marked, 1) == corner(plain, 1)
    outline = 3 * CELL - 1, 2 * CELL - 1  # of token 6, far from its corner
    assert marked.getpixel(outline) != plain.getpixel(outline)


def test_a_token_for_the_whole_image_gets_a_badge_and_no_place(image: Image.Image) -> None:
    without = np.asarray(kept_tokens(image, GRID, [10], cell=CELL))
    with_one = np.asarray(kept_tokens(image, GRID, [10, -1], cell=CELL))
    differs = (without != with_one).any(-1)
    assert differs.any()
    assert not differs[2 * CELL :].any()  # the last token is not index -1 of the grid


def test_the_picture_shows_the_centre_crop_that_the_model_sees() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    colors = seen(wide, (5, 5), 20).getcolors()
    assert colors is not None
    assert [color for _, color in colors] == [(0, 0, 255)]


def test_groups_have_one_colour_each_and_kept_tokens_a_dot(image: Image.Image) -> None:
    grey = Image.new("RGB", image.size, (120, 120, 120))
    grouping = Grouping(((0, 5), (1, 6)), items=12)
    picture = groups(grey, GRID, grouping, np.array([5]), cell=CELL)
    dotless = groups(grey, GRID, grouping, cell=CELL)
    assert middle(dotless, 0) == middle(dotless, 5)
    assert middle(dotless, 1) == middle(dotless, 6)
    assert len({middle(dotless, 0), middle(dotless, 1), middle(dotless, 11)}) == 3
    assert max(middle(dotless, 11)) < 80  # in no group
    assert middle(picture, 5) == (255, 255, 255)
    assert middle(picture, 0) == middle(dotless, 0)


def test_64_groups_are_told_apart() -> None:
    assert len({color(number) for number in range(64)}) == 64


@pytest.mark.parametrize("index", [-2, 12])
def test_a_token_outside_the_grid_is_refused(image: Image.Image, index: int) -> None:
    with pytest.raises(ValueError, match=rf"token {index} is outside the grid of 3 x 4"):
        kept_tokens(image, GRID, [index])


def test_groups_of_another_grid_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="groups of 2 items do not fit a grid of 3 x 4"):
        groups(image, GRID, Grouping(((0,), (1,)), items=2))


def logbook() -> Logbook:
    book = Logbook()
    for iteration, (best, mean) in enumerate([(2.0, 3.0), (1.5, 2.5), (1.5, 2.0)]):
        book.record(iteration=iteration, evaluations=48 + 36 * iteration, best=best, mean=mean)
    return book


def test_the_trace_draws_best_and_mean_over_evaluations() -> None:
    (axes,) = trace(logbook()).axes
    drawn = {str(line.get_label()): line.get_xydata().tolist() for line in axes.get_lines()}  # type: ignore[union-attr]
    assert drawn["best so far"] == [[48, 2.0], [84, 1.5], [120, 1.5]]
    assert drawn["mean of the batch"] == [[48, 3.0], [84, 2.5], [120, 2.0]]
    with pytest.raises(ValueError, match="no search"):
        trace(Logbook())


def test_fronts_draw_a_line_per_method_over_measured_tokens() -> None:
    def row(method: str, keep: int, average: float | None, tokens: float) -> ComparisonRow:
        return ComparisonRow(method, keep, {}, average, tokens, tokens, 1.0)

    rows = (
        row("none", 9, 100, 9), row("a", 4, 90, 4), row("b", 4, 80, 4.2),
        row("b", 2, 70, 2.1), row("a", 2, 60, 2), row("impossible", 2, None, 2),
    )  # fmt: skip
    figure = fronts(Comparison((), rows, {}, reference="a"))
    drawn = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    assert list(drawn) == ["none, 9 tokens", "a", "b"]
    assert drawn["b"].get_xydata().tolist() == [[2.1, 70], [4.2, 80]]  # type: ignore[union-attr]
    assert drawn["a"].get_linewidth() > drawn["b"].get_linewidth()
    with Image.open(BytesIO(png(figure))) as picture:
        assert picture.format == "PNG"


def test_fronts_tell_many_methods_apart() -> None:
    rows = [ComparisonRow("none", 9, {}, 100, 9, 9, 100, untouched=True)]
    rows += [ComparisonRow(f"m{i}", 4, {}, 90 - i, 4, 4, 50) for i in range(35)]
    figure = fronts(Comparison((), tuple(rows), {}))
    lines = figure.axes[0].get_lines()[1:]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 35
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a legend that leaves no room for the axes
        png(figure)


def test_saving_is_whole_or_not_at_all(tmp_path: Path, image: Image.Image) -> None:
    path = save(image, tmp_path / "one.png")
    with Image.open(path) as back:
        assert back.tobytes() == image.tobytes()
    before = path.read_bytes()

    class Broken(Image.Image):
        def save(self, *args: object, **kwargs: object) -> None:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save(Broken(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["one.png"]
    with pytest.raises(ValueError, match="ends in .png"):
        save(image, tmp_path / "one.gif")
