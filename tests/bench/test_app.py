"""The app: what its desk answers, and the page in a browser."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.app import ANSWERS, Desk, build, filmed, uploaded
from bench.evaluation.compressors import selector_for
from bench.evaluation.opening import open_image
from bench.report.gallery import show
from bench.report.inspection import look
from bench.report.pictures import overlay
from compress.models.loading import MLLM, load
from compress.samples import Sample
from compress.video import Video

QUESTION = "what color is the star ?"


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(load("micro"))


def test_a_reply_is_what_the_method_kept_and_said_beside_the_untouched_model(desk: Desk) -> None:
    image = open_image("micro:3")
    reply = desk.reply(image, f" {QUESTION} ", "fastv:layer=3", 20)
    sample = Sample("asked", image, QUESTION, ())
    run = look(desk.mllm, sample, "fastv:layer=3", selector_for("fastv:layer=3", "micro"), 20)
    (said,) = desk.mllm.answer([image], [QUESTION])
    left = len(run.path[-1].kept)
    told = [row[:3] for row in reply.rows]
    assert told == [["none", said, "144"], ["fastv:layer=3 at 20", run.said, f"{left}"]]
    assert all(float(row[3]) >= 0 and len(row) == len(ANSWERS) for row in reply.rows)
    assert reply.picture == overlay(show(sample, desk.mllm), run.path[-1], 480)
    assert reply.notes == ""


def test_the_untouched_model_answers_a_question_once(desk: Desk) -> None:
    image = open_image("micro:4")
    first = desk.reply(image, QUESTION, "random", 9)
    again = desk.reply(image, QUESTION, "grid", 9)
    assert again.rows[0] == first.rows[0]  # to the hundredth of a second
    assert len(desk.untouched) == 1
    desk.reply(open_image("micro:5"), QUESTION, "grid", 9)
    assert len(desk.untouched) == 1, "only the last question is kept"


def test_a_video_is_answered_about_as_an_image_is(tiny_qwen: MLLM, pictures, tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=500)
    video = filmed({"path": str(path)}, 3)
    assert video is not None and video.times == (0, 0.5, 1.5)
    reply = Desk(tiny_qwen).reply(video, QUESTION, "grid", 2)
    assert reply.rows[0][2] == f"{tiny_qwen.tokens_of(video)}" and reply.rows[1][2] == "2"
    assert filmed(None, 3) is None
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.mp4 cannot be read as a video \(it is empty"):
        filmed({"path": str(tmp_path / "empty.mp4")}, 3)


def test_a_model_that_reads_no_videos_says_so(desk: Desk) -> None:
    with pytest.raises(ValueError, match="reads no videos"):
        desk.reply(Video((Image.new("RGB", (9, 9)),), (0,)), QUESTION, "grid", 9)


@pytest.mark.parametrize(
    ("image", "question", "method", "keep", "said"),
    [
        (None, QUESTION, "grid", 9, "there is no image"),
        ("micro:3", "  ", "grid", 9, "the question is empty"),
        ("micro:3", QUESTION, "gird", 9, "did you mean 'grid'"),
        ("micro:3", QUESTION, "fastv", 3, "the nearest budget is 13"),
    ],
)
def test_mistakes_say_what_to_do(
    desk: Desk, image: str | None, question: str, method: str, keep: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        desk.reply(open_image(image) if image else None, question, method, keep)


def test_any_image_is_taken_and_strange_words_are_named(desk: Desk) -> None:
    reply = desk.reply(Image.new("RGBA", (300, 50), "red"), "what zebra is this ?", "none", 144)
    assert reply.notes == "The model has no word for zebra."
    (name, said, tokens, _), row = reply.rows
    assert (name, tokens) == ("none", "144")
    assert row[:3] == ["none at 144", said, "144"]


def test_an_image_is_seen_upright_and_one_that_is_too_thin_is_refused(desk: Desk) -> None:
    upright = open_image("micro:3").resize((40, 60))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[274] = 6
    file = BytesIO()
    lying.save(file, "PNG", exif=lying.getexif())
    assert desk.reply(Image.open(file), QUESTION, "grid", 9).picture == (
        desk.reply(upright, QUESTION, "grid", 9).picture
    )
    with pytest.raises(ValueError, match="200000 x 1 pixels is too thin"):
        desk.reply(Image.new("RGB", (200_000, 1)), QUESTION, "grid", 9)


def test_without_gradio_the_extra_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'evocomp\[app\]'"):
        build(desk, ["grid"])


def png(side: int) -> bytes:
    file = BytesIO()
    Image.effect_noise((side, side), 50).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    file = BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


UPLOADS = {"cut": png(64)[:1000], "empty": b"", "text": b"not an image", "bomb": bomb()}


@pytest.mark.parametrize("kind", UPLOADS)
def test_an_upload_that_is_no_image_gets_the_command_lines_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(UPLOADS[kind])
    with pytest.raises(ValueError, match=r"^holiday.png cannot be read as an image \("):
        uploaded({"path": str(tmp_path / "a.png"), "orig_name": "holiday.png"})
    with pytest.raises(ValueError, match=r"^the image cannot be read as an image \("):
        uploaded({"url": f"data:image/png;base64,{b64encode(UPLOADS[kind]).decode()}"})


@pytest.mark.parametrize("kind", UPLOADS)
def test_the_page_says_that_sentence(desk: Desk, tmp_path: Path, kind: str) -> None:
    gr = pytest.importorskip("gradio")
    page = build(desk, ["grid"])
    (tmp_path / "a.png").write_bytes(UPLOADS[kind])
    answers = [one for one in page.fns.values() if one.name == "answer"]
    assert len(answers) >= 4 and not any(one.preprocess for one in answers)
    sent = {"path": str(tmp_path / "a.png"), "orig_name": "holiday.png"}
    with pytest.raises(gr.Error, match="holiday.png cannot be read as an image") as problem:
        answers[0].fn(sent, QUESTION, "grid", 9)
    assert not problem.value.print_exception
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    assert answers[0].fn(sent, QUESTION, "grid", 9)[1][1][0] == "grid at 9"


# In the browser ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(desk: Desk) -> Iterator[str]:
    pytest.importorskip("gradio")
    page = build(desk, ["random", "grid", "evocomp"])
    _, address, _ = page.launch(
        server_name="127.0.0.1", ssr_mode=False, quiet=True, prevent_thread_lock=True
    )  # fmt: skip
    yield address
    page.close()


@pytest.fixture()
def page(chromium: Any, address: str) -> Iterator[Any]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)  # of a machine that is busy with other things
    broken: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert broken == []
    assert {url for url in asked if not url.startswith((address, "data:", "blob:"))} == set()


def cell(page: Any, text: str) -> Any:
    """Where the table of answers says this."""
    return page.get_by_role("gridcell", name=text)


def picture(page: Any, other: str = "") -> str:
    """Where the picture of kept tokens comes from, once there is one, or another one."""
    script = "([...document.images].find(one => one.naturalWidth === 480) || {}).currentSrc"
    found = page.wait_for_function(f"other => {{ const s = {script}; return s !== other && s; }}", arg=other)
    return found.json_value()


def test_the_page_answers_on_its_own_and_when_it_is_asked(page: Any) -> None:
    cell(page, "evocomp at 16").wait_for()
    assert picture(page).startswith(page.url)
    page.get_by_label("Question").fill("is there a zebra ?")
    page.get_by_role("button", name="Answer", exact=True).click()
    page.get_by_text("The model has no word for zebra.").wait_for()


def test_another_scene_brings_its_question_and_its_answer(page: Any) -> None:
    before = picture(page)
    question = page.get_by_label("Question")
    question.fill("which one ?")
    page.get_by_role("button", name="Another scene").click()
    picture(page, before)
    assert question.input_value() not in ("", "which one ?")


def test_a_method_that_does_not_exist_gets_its_line(page: Any) -> None:
    cell(page, "evocomp at 16").wait_for()
    method = page.get_by_role("combobox", name="Method")
    method.fill("gird")
    method.press("Enter")
    page.get_by_text("did you mean 'grid'").first.wait_for()
