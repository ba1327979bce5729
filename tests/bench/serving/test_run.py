from __future__ import annotations

import base64
import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bench.serving.client import ServerReply, png
from bench.serving.report import quantiles, report, results, table, write
from bench.serving.run import CellRound, Load, Served, ServingCell, cells_of, run
from tests.bench.serving.stub import stub

RED, BLACK = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))
QUESTIONS = [(RED, "what color is it ?"), (BLACK, "and this ?")]
LOAD = Load(users=(1, 3), requests=4, rounds=2, new=3)


def test_nothing_compressed_comes_first_under_every_load() -> None:
    cells = cells_of(["none", "grid"], [16, 8], Load(users=(2,), rates=(0.5,)))
    assert [tuple(cell) for cell in cells] == [
        ("none", None, 2, None), ("grid", 16, 2, None), ("grid", 8, 2, None),
        ("none", None, None, 0.5), ("grid", 16, None, 0.5), ("grid", 8, None, 0.5),
    ]  # fmt: skip


def test_every_cell_asks_as_often_as_it_should_and_says_what_it_wants() -> None:
    with stub() as server:
        served = run(server.url, "busy", cells_of(["grid"], [16], LOAD), QUESTIONS, LOAD)
    wishes = Counter(json.dumps(body.get("mm_processor_kwargs")) for body in server.bodies)
    warm = 2 + 3  # of one user, and of three
    assert wishes == {
        "null": 2 * 2 * 4 + warm,
        '{"evocomp": {"method": "grid", "keep": 16}}': 2 * 2 * 4 + warm,
    }
    told = {(body["model"], body["max_tokens"], body["ignore_eos"]) for body in server.bodies}
    assert told == {("busy", 3, True)}
    assert [len(turn.replies) for turns in served.rounds for turn in turns.values()] == [4] * 8
    reply = served.turns(served.cells[0])[0].replies[0]
    assert (reply.text, reply.tokens, reply.prompt) == ("one two three", 3, 40)
    assert reply.sent < reply.first <= reply.last


def test_other_servers_get_no_fields_of_ours() -> None:
    with stub() as server:
        run(server.url, "other", cells_of([], [], LOAD), QUESTIONS, LOAD)
    assert not any({"mm_processor_kwargs", "ignore_eos"} & body.keys() for body in server.bodies)


def test_as_many_requests_are_open_as_there_are_users() -> None:
    load = Load(users=(3,), requests=9, rounds=1)
    with stub(pause=0.02) as server:
        run(server.url, "busy", cells_of([], [], load), QUESTIONS, load)
    assert server.most == 3


def test_arrivals_at_random_do_not_wait_for_answers() -> None:
    load = Load(users=(), rates=(1000.0,), requests=8, rounds=1)
    with stub(pause=0.1) as server:
        run(server.url, "busy", cells_of([], [], load), QUESTIONS, load)
    assert server.most == 8


def test_no_image_is_sent_twice() -> None:
    with stub() as server:
        run(server.url, "busy", cells_of(["grid"], [16], LOAD), QUESTIONS, LOAD)
    sent = [body["messages"][0]["content"][0]["image_url"]["url"] for body in server.bodies]
    assert len(set(sent)) == len(sent)
    picture = Image.open(BytesIO(base64.b64decode(sent[0].partition(",")[2])))
    assert picture.size == (8, 8) and picture.getpixel((4, 4)) in ((255, 0, 0), (0, 0, 0))


def test_a_marked_image_differs_in_one_pixel() -> None:
    image = Image.new("RGB", (8, 8), "red")
    marked = Image.open(BytesIO(png(image, 70000)))
    changed = [at for at in range(64) if marked.getpixel((at % 8, at // 8)) != (255, 0, 0)]
    assert changed == [0]
    assert png(image, 1) != png(image, 2) and image.getpixel((0, 0)) == (255, 0, 0)


def test_what_the_server_refuses_is_told_once() -> None:
    with stub(status=404) as server, pytest.raises(ValueError, match="404.*no such model"):
        run(server.url, "absent", cells_of([], [], LOAD), QUESTIONS, LOAD)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not answer"):
        run("http://127.0.0.1:9/v1", "busy", cells_of([], [], LOAD), QUESTIONS, LOAD)


def test_an_answer_without_a_token_is_an_error() -> None:
    with stub(words=()) as server, pytest.raises(ValueError, match="without a token"):
        run(server.url, "busy", cells_of([], [], LOAD), QUESTIONS, LOAD)


def test_tokens_without_text_count_as_tokens_after_the_first() -> None:
    with stub(words=("one", "", "")) as server:
        served = run(server.url, "busy", cells_of([], [], LOAD), QUESTIONS, LOAD)
    replies = [reply for cell in served.cells for turn in served.turns(cell) for reply in turn.replies]
    assert all(reply.last > reply.first and reply.text == "one" for reply in replies)


def test_counts_may_come_with_the_end_of_an_answer() -> None:
    with stub(joined=True) as server:
        served = run(server.url, "other", cells_of([], [], LOAD), QUESTIONS, LOAD)
    reply = served.turns(served.cells[0])[0].replies[0]
    assert (reply.text, reply.tokens, reply.prompt) == ("one two three", 3, 40)


def test_the_limit_of_time_ends_the_run() -> None:
    load = Load(users=(1,), requests=1, rounds=5, minutes=0.0)
    with stub() as server, pytest.raises(ValueError, match="no round was over"):
        run(server.url, "busy", cells_of([], [], load), QUESTIONS, load)


NOTHING, GRID = ServingCell("none", None, 1, None), ServingCell("grid", 16, 1, None)


def served(rounds: int = 6, prompt: int = 20) -> Served:
    """What slows a round slows both: `grid` takes half as long, and a third for its first token."""

    def turn(seconds: float, first: float, prompt: int) -> CellRound:
        return CellRound((ServerReply(0.0, first, first + 0.2, 3, prompt, "one two three"),), seconds)

    slow = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0][:rounds]
    every = tuple({NOTHING: turn(2 * by, 0.3 * by, 40), GRID: turn(by, 0.1 * by, prompt)} for by in slow)
    return Served((NOTHING, GRID), every, False)


def test_ratios_are_those_of_a_round() -> None:
    untouched, grid = report(served(), {}).rows
    assert untouched.ratios == {}
    assert (grid.ratios["requests"].low, grid.ratios["requests"].high) == (2, 2)
    assert grid.ratios["to first"].times == pytest.approx(3)
    middle = (1 / 3 + 1 / 4) / 2  # requests per second of `grid`
    assert untouched.requests == pytest.approx(middle / 2) and grid.requests == pytest.approx(middle)
    assert grid.tokens == pytest.approx(3 * middle)
    assert grid.per_token is not None and grid.per_token.median == pytest.approx(0.1)
    assert grid.to_first.p90 is None  # of six


def test_tables_files_and_raw_times(tmp_path: Path) -> None:
    facts = {"server": "stub", "model": "busy", "command": "evocomp bench serve"}
    found = report(served(), facts)
    assert "2.00 [2.00, 2.00]" in table(found).text()
    write(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pictures", "results.json", "serving.csv", "serving.html", "serving.md",
    ]  # fmt: skip
    assert (tmp_path / "pictures" / "requests.png").stat().st_size
    assert len(quantiles(found).csv().splitlines()) == 3
    assert len(results(found)["rows"][1]["turns"]) == 6
    assert "rough" in " ".join(report(served(3), {}).notes())


def test_the_page_has_what_the_table_and_the_picture_tell(tmp_path: Path) -> None:
    facts = {"server": "stub", "model": "busy", "command": "evocomp bench serve"}
    found = report(served(), facts)
    write(found, tmp_path)
    page = (tmp_path / "serving.html").read_text()
    for line in table(found).rows:
        assert all(f">{cell}</t" in page for cell in line)
    picture = (tmp_path / "pictures" / "requests.png").read_bytes()
    assert f"data:image/png;base64,{base64.b64encode(picture).decode()}" in page
    assert "<h1>busy under load</h1>" in page and ">evocomp bench serve</pre>" in page
    assert all(note in page for note in found.notes()) and "Ratios are to nothing" in page


def test_prompts_that_are_not_shorter_are_told() -> None:
    assert "grid at 16. Either" in " ".join(report(served(prompt=40), {}).notes())
    assert "Either" not in " ".join(report(served(prompt=39), {}).notes())
