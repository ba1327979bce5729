"""Images of odd modes and sizes, broken ones, and sources that open them one by one."""

from __future__ import annotations

import pickle
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from bench.tasks import images
from bench.tasks.images import CLIP_MEAN, ImageFile, ImageRow, ImageText, Padded
from compress.images import open_rgb
from compress.samples import Sample

ORIENTATION = 274  # the EXIF tag


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = open_rgb(encoded(Image.new(mode, (5, 3))), "it")
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_cmyk_and_one_pixel() -> None:
    assert open_rgb(encoded(Image.new("CMYK", (4, 4)), "JPEG"), "it").getpixel((0, 0)) == (255, 255, 255)
    assert open_rgb(encoded(Image.new("RGB", (1, 1), "blue")), "it").getpixel((0, 0)) == (0, 0, 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = [[0, 257, 25700, 65535]]
    for image, kind in ((np.array(values, np.uint16), "PNG"), (np.array(values, np.int32), "TIFF")):
        found = np.asarray(open_rgb(encoded(Image.fromarray(image), kind), "it"))
        assert found[0, :, 0].tolist() == [0, 1, 100, 255] and (found[..., 0] == found[..., 2]).all()


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "green", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_rgb(gif, "it").getpixel((0, 0)) == (255, 0, 0)


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (6, 6), "red"), "GIF"))
    assert ImageFile(tmp_path, "a.jpg")().getpixel((0, 0)) == (255, 0, 0)


def test_a_truncated_image_is_an_error_and_not_half_grey(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    for cut in (whole[: len(whole) // 2], whole[:4], b"", b"not an image"):
        with pytest.raises(ValueError, match="a.jpg cannot be read as an image"):
            open_rgb(cut, "a.jpg")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("L", (40, 40)))
    for limit in (1000, 100):  # a warning, and an error, of PIL
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="cannot be read as an image .*decompression bomb"):
            open_rgb(bomb, "it")


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    """By all eight orientations, in every format that has them; a TIFF's, which PIL turns itself, once."""
    upright = Image.fromarray(np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    for kind in ("PNG", "TIFF", "WEBP"):
        written = encoded(lying, kind, exif=orientation(6), **({"lossless": True} if kind == "WEBP" else {}))
        found = open_rgb(written, "it")
        assert np.array_equal(np.asarray(found), np.asarray(upright)), kind
        assert found.getexif().get(ORIENTATION) is None, "nobody turns it again"
    for number in range(1, 9):
        expected = ImageOps.exif_transpose(Image.open(BytesIO(encoded(lying, exif=orientation(number)))))
        assert open_rgb(encoded(lying, exif=orientation(number)), "it").tobytes() == expected.tobytes()


def test_broken_exif_data_leaves_the_picture_as_it_is() -> None:
    image = Image.new("RGB", (40, 20), "red")
    for broken in (b"Exif\x00\x00nothing", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b""):
        assert open_rgb(encoded(image, exif=broken), "it").size == (40, 20)


def test_llavas_scripts_open_pictures_as_they_are_stored(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=orientation(6)))
    picture = ImageFile(tmp_path, "a.jpg")
    assert picture().size == (20, 40) and picture.as_stored()().size == (40, 20)
    assert picture.key != picture.as_stored().key, "features and labels of one are not of the other"
    assert picture.as_stored()().getexif().get(ORIENTATION) is None


@pytest.mark.parametrize("size", [(201, 1), (1, 60_000), (20_100, 100)])
def test_a_picture_that_is_too_thin_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    thin = encoded(Image.new("L", size))[:60]  # the header alone
    with pytest.raises(ValueError, match=f"it cannot .*{size[0]} x {size[1]} pixels is too thin.*200 times"):
        open_rgb(thin, "it")


def test_the_square_of_a_long_picture_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.images.SQUARE", 100 * 100)
    long = Padded(lambda: Image.new("RGB", (450, 90), "red"))
    assert long().size == (90, 90) and long().getpixel((45, 45)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["../b.png", "/b.png", "a/../../b.png", "a\\..\\..\\b.png", "C:\\b.png", ""])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        ImageFile(tmp_path / "root", name)


def test_text_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="index 3 cannot be read as an image .its base64 text is broken"):
        ImageText("index 3", "!!!")()
    with pytest.raises(ValueError, match="index 3 cannot be read"):
        ImageText("index 3", b64encode(b"nothing").decode())()


def test_padding_is_a_square_of_clips_mean(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 10), "red")))
    (tmp_path / "b.png").write_bytes(encoded(Image.new("RGB", (4, 4), "red")))
    wide = Padded(ImageFile(tmp_path, "a.png"))()
    assert wide.size == (10, 10)
    assert wide.getpixel((0, 0)) == CLIP_MEAN == (122, 116, 104) and wide.getpixel((5, 5)) == (255, 0, 0)
    assert Padded(ImageFile(tmp_path, "b.png"))().size == (4, 4)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    made = [
        {"id": i, "image": {"bytes": encoded(Image.new("RGB", (2 + i, 2))), "path": ""}} for i in range(6)
    ]
    made[5]["image"] = {"bytes": None, "path": "gone"}
    pq.write_table(pa.Table.from_pylist(made), path, row_group_size=2)
    return path


def test_rows_are_read_a_group_at_a_time(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images._images.cache_clear()
    opened = []
    real = pq.ParquetFile
    monkeypatch.setattr(images.pq, "ParquetFile", lambda path: opened.append(path) or real(path))
    sizes = [ImageRow(rows, group, row)().size[0] for group, row in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]
    assert sizes == [2, 3, 4, 5, 6] and len(opened) == 3
    with pytest.raises(ValueError, match="row group 2, row 1: there is no image"):
        ImageRow(rows, 2, 1)()


def test_pictures_travel_to_other_processes_and_know_each_other(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (3, 3))))
    for picture in (ImageFile(tmp_path, "a.png"), ImageRow(rows, 1, 0), Padded(ImageRow(rows, 1, 0))):
        again = pickle.loads(pickle.dumps(picture))
        assert again == picture and again.key == picture.key
        assert again().tobytes() == picture().tobytes()


def test_a_sample_is_told_from_others_without_opening_its_picture(tmp_path: Path) -> None:
    def one(name: str, question: str = "?") -> Sample:
        return Sample("1", ImageFile(tmp_path, name), question, ("x",))

    assert one("a.png").fingerprint == one("a.png").fingerprint
    assert len({one("a.png").fingerprint, one("b.png").fingerprint, one("a.png", "what ?").fingerprint}) == 3
    before = one("a.png").fingerprint
    (tmp_path / "a.png").write_bytes(b"another content")
    assert one("a.png").fingerprint != before
    made = [
        Sample("1", Image.new("RGB", (2, 2), color), "?", ("x",)).picture_digest for color in ("red", "blue")
    ]
    assert made[0] != made[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (1, 200)])
def test_the_smallest_images_can_be_asked_about(size: tuple[int, int]) -> None:
    from compress.models.loading import load

    mllm = load("micro")
    image = open_rgb(encoded(Image.new("L", size)), "it")
    assert mllm.answer([image], ["what color is the star ?"])[0]
