"""Odd, broken and hostile images through the real commands: an answer, or one line that names the image."""

from __future__ import annotations

import json
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.models.loading import MLLM, MODELS
from tests.cli import refused, run

pytestmark = pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")

QUESTION = "what color is the star ?"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


WHOLE = encoded(noise("RGB"), "JPEG")
DEEP = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
FRAMES = [noise("P"), Image.new("P", (40, 30), 3), Image.new("P", (40, 30), 9)]
ODD = {
    "pixel.png": encoded(noise("RGB", (1, 1))),
    "row.png": encoded(noise("RGB", (150, 1))),
    "column.png": encoded(noise("L", (1, 150))),
    "bits.png": encoded(noise("1")),
    "grey.png": encoded(noise("L")),
    "grey-alpha.png": encoded(noise("LA")),
    "palette.gif": encoded(noise("P"), "GIF"),
    "alpha.png": encoded(noise("RGBA")),
    "print.jpg": encoded(noise("CMYK"), "JPEG"),
    "video.jpg": encoded(noise("YCbCr"), "JPEG"),
    "deep.png": encoded(Image.fromarray(DEEP)),
    "deep.tiff": encoded(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
    "real.tiff": encoded(Image.fromarray(DEEP.astype(np.float32) / 300), "TIFF"),
    "moving.gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "moving.webp": encoded(noise("RGB"), "WEBP", save_all=True, append_images=[noise("RGB")]),
    "wrong-name.bmp": WHOLE,
}
BROKEN = {
    "half.jpg": WHOLE[: len(WHOLE) // 2],
    "head.png": ODD["grey.png"][:20],
    "empty.png": b"",
    "text.png": b"GIF is what this is not",
    "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "nan.tiff": encoded(Image.fromarray(np.full((30, 40), np.nan, np.float32)), "TIFF"),
    "bomb.png": bomb(30_000),
    "large.png": bomb(10_000),  # PIL only warns of this one
}


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ODD)
def test_odd_images_can_be_asked_about(tmp_path: Path, name: str, tiny_next: MLLM, tiny_qwen: MLLM):
    path = written(tmp_path, name, ODD[name])
    for model in ("micro", tiny_next.name, tiny_qwen.name):
        result = run("ask", path, QUESTION, "--method", "grid", "--keep", 4, "--model", model, "--json")
        assert result.exit_code == 0, (model, result.stderr)
        found = json.loads(result.stdout)
        assert len(found["kept"]) == min(4, found["tokens"])


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_named_in_one_line(tmp_path: Path, name: str):
    path = written(tmp_path, name, BROKEN[name])
    for command in ("ask", "search"):
        assert f"{path} cannot be read as an image (" in refused(command, path, QUESTION)


@pytest.mark.parametrize("command", ["ask", "search", "draw kept"])
def test_a_thin_image_is_named_by_its_size(tmp_path: Path, command: str):
    path = written(tmp_path, "thin.png", encoded(noise("RGB", (402, 2))))
    extra = ("--out", tmp_path / "kept.png") if command.startswith("draw") else ()
    message = refused(*command.split(), path, QUESTION, *extra)
    assert f"{path} cannot be read as an image (an image of 402 x 2 pixels is too thin" in message


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    assert run("data", "export", "--out", folder, "--tasks", "pope,textvqa", "-n", 6).exit_code == 0
    return folder


def pope(folder: Path) -> tuple[str, ...]:
    return ("eval", "--tasks", "pope", "--data", str(folder), "--method", "grid", "--keep", "16")


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "pope" / "val2014").iterdir())


def test_a_benchmark_of_odd_images_is_scored_whole(benchmark: Path):
    contents = list(ODD.values())
    for number, path in enumerate(pictures(benchmark)):
        path.write_bytes(contents[number * 5 % len(contents)])
    result = run(*pope(benchmark), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[0]["n"] == 6


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_of_a_benchmark_is_named_and_nothing_shifts(benchmark: Path, name: str):
    path = pictures(benchmark)[-1]
    path.write_bytes(BROKEN[name])
    assert f"{path} cannot be read as an image (" in refused(*pope(benchmark))


def test_an_image_that_is_not_there_or_no_file_is_named(benchmark: Path):
    path = pictures(benchmark)[0]
    path.unlink()
    os.mkfifo(path)
    assert f"{path} cannot be read as an image" in refused(*pope(benchmark))
    path.unlink()
    assert f"there is no image at {path}" in refused(*pope(benchmark))
    path.mkdir()
    assert f"{path} cannot be read as an image" in refused(*pope(benchmark))


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "a/../../../b.png", "..\\..\\b.png", "C:/b.png", ""]
)
def test_names_that_lead_out_of_a_benchmark_are_refused(benchmark: Path, name: str):
    written(benchmark.parent, "secret.png", encoded(noise("RGB")))
    file = benchmark / "pope" / "coco_pope_random.json"
    first, *rest = (json.loads(line) for line in file.read_text().splitlines())
    file.write_text("".join(json.dumps(row) + "\n" for row in [first | {"image": name}, *rest]))
    assert "leads out of" in refused(*pope(benchmark))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_in_place_of_an_image_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "there is no image at" in refused("ask", tmp_path / "pipe.png", QUESTION)


def test_a_benchmark_in_one_file_names_its_broken_row(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "benchmarks"
    exported = run("data", "export", "--out", folder, "--tasks", "pope", "-n", 6, "--format", "lmms-lab")
    assert exported.exit_code == 0
    (path,) = folder.rglob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    rows[4]["image"] = {"bytes": BROKEN["half.jpg"], "path": "../../../etc/passwd"}
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert f"{path}, row group 0, row 4 cannot be read as an image" in refused(*pope(folder))
