"""`evocomp bench serve` against a server that runs already, and the list of what runs in vLLM."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.bench.serving.stub import stub
from tests.cli import done, parsed, refused

LISTED = ("list", "methods", "--engine", "vllm")
LOAD = ("--users", 1, "--requests", 2, "--rounds", 1, "--new", 3)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, color in {"10.png": "blue", "2.png": "red", "9.jpg": "lime"}.items():
        Image.new("RGB", (16, 16), color).save(folder / name, quality=100)
    (folder / "notes.txt").write_text("no image")
    return folder


def shown(body: dict[str, Any]) -> tuple[int, ...]:
    """A pixel of the image that a request shows."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    pixel = Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((8, 8))
    return tuple(255 * round(value / 255) for value in pixel)


def test_the_first_images_of_a_folder_are_asked_about(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "served"
    with stub() as server:
        done(
            "bench", "serve", "--url", server.url, "--model", "theirs", "--methods", "none",
            "--images", images, "--question", "what is it ?", "-n", 2, *LOAD, "--out", out,
        )  # fmt: skip
    asked = {(shown(body), body["messages"][0]["content"][1]["text"]) for body in server.bodies}
    assert asked == {((255, 0, 0), "what is it ?"), ((0, 255, 0), "what is it ?")}
    assert sorted(path.name for path in out.iterdir()) == [
        "pictures", "results.json", "serving.csv", "serving.html", "serving.md",
    ]  # fmt: skip
    page = (out / "serving.html").read_text()
    assert "<h1>theirs under load</h1>" in page and "evocomp bench serve --url" in page
    assert "Ratios" not in page  # there are none


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--images", "empty"), "empty has no images (.png"),
        (("--images", "empty", "--question", " "), "has no images"),
        (("--images", "images", "--question", " "), "the question is empty"),
        (("--images", "images", "--tasks", "pope"), "--tasks: not with --images"),
        (("--images", "nowhere"), "does not exist"),
        (("--vllm", "vllm"), "--vllm: not with --url, where a server runs already"),
        (("--users", "none"), "write positive numbers"),
        (("--users", "", "--methods", "none"), "nothing is asked"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], why: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    (images.parent / "empty").mkdir()
    assert why in refused("bench", "serve", "--url", "http://127.0.0.1:9/v1", *arguments)


def test_the_list_says_which_methods_run_in_vllm_and_why_others_do_not() -> None:
    told = {one["name"]: one["runs on busy in vllm"] for one in parsed(*LISTED, "--model", "busy")}
    assert {told[name] for name in ("divprune", "visionzip", "evocomp", "evocomp+", "words")} == {"yes"}
    assert told["fastv"].startswith("no: FastV acts inside the decoder")
    assert "add --model" in refused(*LISTED)
