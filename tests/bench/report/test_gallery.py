from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.evaluation.evaluate import Stage
from bench.report.gallery import (
    BEFORE_VIDEOS,
    PANEL,
    PIXELS,
    Panel,
    covered,
    film_strip,
    joined,
    panels,
    read_gallery,
    save_gallery,
    show,
    telling,
)
from bench.report.gallery import Gallery as Shelf
from bench.report.pictures import overlay
from compress.models.loading import MLLM
from compress.samples import Sample
from compress.video import Video

QUESTION = "what is the color ?"
SIZES = [(48, 48), (90, 30), (25, 70)]


def looked(mllm: MLLM, size: tuple[int, int]) -> tuple[Panel, ...]:
    inputs = mllm.prepare([Image.new("RGB", size, "red")], [QUESTION])
    (picture,) = mllm.pictures(inputs)
    found = panels(picture)
    assert found[-1].stop == len(picture)
    return found


def test_tokens_have_their_cells_and_newlines_have_none() -> None:
    panel = Panel(start=10, rows=2, columns=3, stride=4)
    assert panel.stop == 18
    assert panel.places([9, 10, 12, 13, 14, 16, 17, 18, -1]) == [0, 2, 3, 5]


@pytest.mark.parametrize("size", SIZES)
def test_every_token_of_a_single_tile_lies_on_the_image(tiny: MLLM, tiny_qwen: MLLM, size: tuple) -> None:
    assert looked(tiny, size) == (Panel(0, 12, 12, 12),)
    (only,) = looked(tiny_qwen, size)
    assert only.places(range(only.stop)) == list(range(only.rows * only.columns))
    assert (only.columns > only.rows) == (size[0] > size[1])


@pytest.mark.parametrize("size", SIZES)
def test_an_image_in_tiles_is_seen_twice(tiny_next: MLLM, size: tuple[int, int]) -> None:
    thumbnail, crops = looked(tiny_next, size)
    assert thumbnail == Panel(0, 6, 6, 6)
    assert crops.stride == crops.columns + 1
    assert crops.places(range(crops.stop)) == list(range(crops.rows * crops.columns))
    newlines = [crops.start + row * crops.stride + crops.columns for row in range(crops.rows)]
    assert crops.places(newlines) == thumbnail.places(newlines) == []


def test_fixed_tiles_have_no_newlines_and_show_the_padding(tiny_next_fixed: MLLM) -> None:
    assert looked(tiny_next_fixed, (90, 30)) == (Panel(0, 6, 6, 6), Panel(36, 12, 12, 12))
    drawn = show(Sample("one", Image.new("RGB", (90, 30), "red"), QUESTION, ()), tiny_next_fixed).image
    assert drawn.size == (90, 90)
    assert [drawn.getpixel((45, y))[0] > 200 for y in (10, 45, 80)] == [False, True, False]  # type: ignore[index]


def test_the_picture_of_one_tile_is_the_crop_that_the_model_sees() -> None:
    wide = Image.new("RGB", (900, 300), "red")
    wide.paste("blue", (300, 0, 600, 300))
    seen = covered(wide, (Panel(0, 5, 5, 5),))
    assert seen.size == (PIXELS, PIXELS)
    assert all(blue > 250 for _, (_, _, blue) in seen.getcolors() or [])  # type: ignore[misc]
    assert covered(wide.resize((90, 30)), (Panel(0, 5, 5, 5),)).size == (90, 90)
    whole = covered(wide, (Panel(0, 5, 5, 5), Panel(25, 2, 6, 7)))
    assert whole.size == (PIXELS, PIXELS // 3)
    assert len(whole.getcolors() or []) >= 2


def test_a_video_is_a_film_strip_of_its_frames() -> None:
    panel = Panel(0, 2, 3, 3, 5, 4)  # 5 frames of 2 x 3 tokens, 4 beside each other
    assert (panel.grid, panel.stop) == ((4, 12), 30)
    assert panel.places([0, 4, 7, 24, 29, 30]) == [0, 13, 4, 24, 38]
    assert sorted(panel.places(range(24))) == list(range(24))
    colors = ["red", "lime", "blue", "white", "yellow"]
    video = Video(tuple(Image.new("RGB", (30, 20), color) for color in colors), (0, 1, 2, 3, 4))
    strip = film_strip(video, panel)
    assert strip.size == (120, 40)
    assert [strip.getpixel((15 + 30 * n, 10)) for n in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [strip.getpixel((15 + 30 * n, 30)) for n in range(2)] == [(255, 255, 0), (255, 255, 255)]


def test_of_several_frames_to_a_token_the_first_is_shown() -> None:
    video = Video(tuple(Image.new("L", (8, 8), 40 * n).convert("RGB") for n in range(5)), (0, 1, 2, 3, 4))
    strip = film_strip(video, Panel(0, 2, 2, 2, 3, 4))
    assert [strip.getpixel((4 + 8 * n, 4))[0] for n in range(4)] == [0, 80, 160, 255]  # type: ignore[index]


def test_a_video_is_shown_as_the_model_reads_it(tiny_qwen: MLLM) -> None:
    video = Video(tuple(Image.new("RGB", (56, 28), (50 * n, 0, 0)) for n in range(4)), (0, 1, 2, 3))
    shown = show(Sample("clip", video, "what is it ?", ("red",)), tiny_qwen)
    (panel,) = shown.panels
    assert (panel.frames, panel.across) == (2, 4)
    assert shown.tokens == tiny_qwen.tokens_of(video) == panel.frames * panel.rows * panel.columns
    last = [shown.tokens - 1]
    drawn = overlay(shown, Stage(0, tuple(last)), 600)
    plain = overlay(shown, None, 600)
    assert drawn.size == plain.size
    wide, side = drawn.width // 4, drawn.width // 4 // panel.columns
    kept = 2 * wide - side + 4, drawn.height - side + 4, 2 * wide - 4, drawn.height - 4  # of the second frame
    assert drawn.crop(kept).tobytes() == plain.crop(kept).tobytes()
    dropped = wide + 4, 4, 2 * wide - side - 4, drawn.height - 4
    assert drawn.crop(dropped).tobytes() != plain.crop(dropped).tobytes()
    nothing = 2 * wide + 4, 0, *drawn.size
    assert set(drawn.crop(nothing).getdata()) == {(255, 255, 255)}


def test_samples_from_before_videos_are_read(gallery: Shelf, tmp_path: Path) -> None:
    save_gallery(gallery, tmp_path)
    path = tmp_path / "samples" / "gqa.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["panels"] = [{name: panel[name] for name in PANEL} for panel in row["panels"]]
    pq.write_table(pa.Table.from_pylist(rows, BEFORE_VIDEOS), path)
    assert read_gallery(tmp_path)["gqa"] == gallery["gqa"]


def test_telling_samples_are_those_on_which_the_runs_differ() -> None:
    credits = [(1, 1), (0, 1), (0, 0), (1, 0), (0, 1)]
    assert telling("abcde", credits, 3) == [1, 3, 4]
    assert telling("abcbe", credits, 3) == [0, 1, 4], "no picture twice while others are left"
    assert telling("aaaaa", credits, 3) == [1, 3, 4]
    assert telling("abcde", credits, 9) == [0, 1, 2, 3, 4]


def test_a_gallery_comes_back_as_it_was_written(gallery: Shelf, tmp_path: Path) -> None:
    save_gallery(gallery, tmp_path)
    back = read_gallery(tmp_path)
    assert back == gallery
    assert list(back["gqa"]) == list(gallery["gqa"])  # in order
    assert read_gallery(tmp_path / "nowhere") == {}


def test_other_files_are_refused(gallery: Shelf, tmp_path: Path) -> None:
    save_gallery(gallery, tmp_path)
    path = tmp_path / "samples" / "gqa.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="gqa.parquet: unreadable .* no cell is computed twice"):
        read_gallery(tmp_path)
    pq.write_table(pa.table({"sample": ["a"]}), path)
    with pytest.raises(ValueError, match="gqa.parquet: no samples of a comparison"):
        read_gallery(tmp_path)


def test_galleries_are_joined_and_the_first_has_the_say(gallery: Shelf) -> None:
    first = {"gqa": {"gqa-3": replace(gallery["gqa"]["gqa-3"], family="of the first")}}
    both = joined([first, gallery])
    assert {task: set(samples) for task, samples in both.items()} == {t: set(s) for t, s in gallery.items()}
    assert both["gqa"]["gqa-3"].family == "of the first"


def test_small_pictures_lose_little(pictures: list[Image.Image], tiny: MLLM) -> None:
    shown = show(Sample("one", pictures[0], QUESTION, ("red",)), tiny)
    assert (shown.image.size, shown.tokens) == ((48, 48), 144)
    apart = np.abs(np.asarray(shown.image, float) - np.asarray(pictures[0], float))
    assert apart.mean() < 12  # noise is the worst that JPEG can be given
