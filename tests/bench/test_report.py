from __future__ import annotations

import csv
import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import report
from bench.compare import Comparison, Row
from bench.environment import environment
from bench.evaluate import Outcome
from bench.pictures import png
from bench.stats import Interval
from bench.table import blocks
from compress.samples import Sample

TOKENS, KEEPS, METHODS = 16, (4, 2), ("ours", "rival_1", "control")
SCORES = {"ours": 90.0, "rival_1": 80.0, "control": 70.0}
EVIL = """</script><script>alert(1)</script> & "quotes" <!-- ü"""


def sample(task: str, number: int) -> Sample:
    rng = np.random.default_rng(number // 2)  # pairs share their image, as the rotations of MMBench do
    image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    question = EVIL if number == 0 else f"question {number} of {task} ?"
    answers = ("red",) if task == "gqa" else ("two",) * 8 + ("three",) * 2
    return Sample(f"{task}-{number}", image, question, answers, task=task, family="color")


def outcome(task: str, method: str, keep: int, samples: list[Sample]) -> Outcome:
    """Sample i is answered right by the first 1 + i % 3 methods; `ours` has a token for the whole image."""
    place = METHODS.index(method) if method in METHODS else 0
    said = tuple(s.answers[0] if place <= i % 3 else "nothing" for i, s in enumerate(samples))
    kept = tuple(range(keep))
    if method == "ours":
        kept = (*range(5, 4 + keep), -1)
    late = method == "control" and keep == 4
    entering = (16.0, 0.0, 0.0, 0.0) if late else (float(keep),) * 4
    return Outcome(task, said, 60.0 + keep, entering, (kept,) * len(samples), text=9.0, seconds=1.0)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    samples = {task: [sample(task, i) for i in range(30)] for task in ("gqa", "vqav2")}
    outcomes = {
        (method, keep, task): outcome(task, method, keep, listed)
        for task, listed in samples.items()
        for method, keep in [("none", TOKENS), *((m, k) for m in METHODS for k in KEEPS)]
    }
    rows = [Row("none", TOKENS, {"gqa": 88.84, "vqav2": 91.0}, 100.0, 16.0, 3.0, {})]
    for keep in KEEPS:
        for method in METHODS:
            versus = {
                "none": Interval(-10.04, -12, -8),
                "rival_1": Interval(10, 7.96, 12),
                "control": Interval(20, -1, 41),
            }
            score = SCORES[method]
            scores = {"gqa": score + 0.25, "vqav2": score - 1}
            rows.append(Row(method, keep, scores, score, keep, 1.26, versus if method == "ours" else {}))
    return Comparison(("gqa", "vqav2"), tuple(rows), outcomes, samples)


class Page(HTMLParser):
    """Tags with attributes, in order, and the text of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "link", "img", "input", "line", "circle", "rect"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in {"line", "circle", "rect"}:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def make(comparison: Comparison, **given: object) -> str:
    options: dict[str, object] = {"title": "A title", "facts": {"python": "3.11 <b>"}, **given}
    return report.html(comparison, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    curve = png(Image.new("RGB", (8, 8), "red"))
    about = {"ours": "Does it."}
    return make(comparison, commands=["evocomp demo"], curves=[("Loss", curve)], about=about)


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_rows_have_the_header_s_columns_and_one_decimal(comparison: Comparison) -> None:
    header, rows = report.header(comparison), report.table_rows(comparison)
    assert header[:4] == ["method", "keep", "gqa", "vqav2"]
    assert header[4:] == ["Avg. %", "tokens/layer", "seconds", "ours ahead by, 95 %"]
    assert rows[0] == ["none", "16", "88.8", "91.0", "100.0", "16.0", "3.0", ""]
    assert rows[1] == ["ours", "4", "90.2", "89.0", "90.0", "4.0", "1.3", "none: -10.0 [-12.0, -8.0]"]
    assert rows[2][-1] == "+10.0 [+8.0, +12.0]"
    assert [(row[0], row[1]) for row in rows[1:]] == [(m, str(k)) for k in KEEPS for m in METHODS]


def test_markdown_has_a_block_per_budget_and_bold_winners(comparison: Comparison) -> None:
    lines = report.markdown(comparison).splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(row) for row in cells} == {7}
    assert "| *4 of 16 visual tokens (−75.0 %)* |" in lines[4]
    assert lines[5].startswith("| ours | **90.2** | **89.0** | **90.0** | 4.0 | 1.3 |")
    assert lines[6].startswith(r"| rival\_1 | 80.2 | 79.0 | 80.0 |")
    assert "**" not in lines[3]  # vanilla competes with nobody


def test_csv_reads_back(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(report.csv_text(comparison))))
    assert len(rows) == 7
    assert rows[2]["method"] == "rival_1"
    assert (rows[2]["average"], rows[2]["ahead"], rows[2]["ahead_low"]) == ("80.0", "10.0", "8.0")
    assert rows[0]["ahead"] == ""


def test_latex_is_escaped_and_every_line_has_all_columns(comparison: Comparison) -> None:
    text = report.latex(comparison)
    assert r"rival\_1 & 80.2 & 79.0 & 80.0" in text
    assert r"ours & \textbf{90.2} & \textbf{89.0} & \textbf{90.0}" in text
    assert r"$-$10.0 [$-$12.0, $-$8.0]" in text
    assert {line.count("&") for line in text.splitlines() if " & " in line} == {6}
    assert not re.search(r"(?<!\\)[%_]", text)


def test_headlines_name_the_first_and_the_interval(comparison: Comparison) -> None:
    first = report.headlines(comparison)[0]
    assert first.startswith("ours keeps 90.0 % of the untouched model's score with 4 of 16 visual tokens")
    assert "next is rival_1 with 80.0 % (ours ahead by +10.0 [+8.0, +12.0])" in first


def test_headlines_do_not_hide_a_reference_that_lost(comparison: Comparison) -> None:
    whole, ours, rival, control, *_ = comparison.rows
    gaps = {"rival_1": Interval(-20, -22, -18), "control": Interval(-10, -12, -8)}
    beaten = replace(ours, average=60.0, versus=gaps)
    lost = replace(comparison, rows=(whole, rival, control, beaten))
    (line,) = report.headlines(lost)
    assert line.startswith("rival_1 keeps 80.0 %")
    assert line.endswith("; ours with 60.0 % (ours ahead by -20.0 [-22.0, -18.0]).")


def test_figures_that_look_equal_are_both_best(comparison: Comparison) -> None:
    whole, ours, rival, *_ = comparison.rows
    even = blocks(replace(comparison, rows=(whole, ours, replace(rival, average=89.96))))[1]
    assert [even.best(row.average, "average") for row in even.rows] == [True, True]


def test_the_page_is_well_formed_and_has_every_row(comparison: Comparison, page: str) -> None:
    rows = [[cell.strip() for cell in row] for row in Page(page).rows]
    for block in blocks(comparison):
        assert [block.title] in rows
        for row in block.rows:
            values = (*row.scores.values(), row.average, row.tokens, row.seconds)
            line = [row.method, *(f"{value:.1f}" for value in values)]
            assert line in [cells[:6] for cells in rows]


def test_the_page_requests_nothing(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            address = attributes.get(name, "")
            assert address.startswith(("data:", "#")) or not address, (tag, address[:60])
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest", page)
    assert """content="default-src 'none'""" in page


def test_text_from_samples_and_names_cannot_become_markup(comparison: Comparison) -> None:
    hostile = [replace(row, method=EVIL) if row.method == "control" else row for row in comparison.rows]
    outcomes = {(EVIL if m == "control" else m, k, t): o for (m, k, t), o in comparison.outcomes.items()}
    page = make(
        replace(comparison, rows=tuple(hostile), outcomes=outcomes),
        title=EVIL, facts={EVIL: EVIL}, commands=[EVIL], about={EVIL: EVIL},
    )  # fmt: skip
    assert "alert(1)</script>" not in page
    assert [tag for tag, _ in Page(page).tags].count("script") == 2
    assert any(s["question"] == EVIL for task in data_of(page)["tasks"] for s in task["samples"])


def test_the_browser_of_samples_has_all_that_it_draws(comparison: Comparison, page: str) -> None:
    data = data_of(page)
    assert data["grid"] == [4, 4]
    assert data["runs"][0] == {"method": "none", "keep": 16}
    assert [tuple(run.values()) for run in data["runs"][1:]] == [(m, k) for k in KEEPS for m in METHODS]
    assert [task["name"] for task in data["tasks"]] == ["gqa", "vqav2"]
    for task in data["tasks"]:
        assert len(task["samples"]) == 12
        for shown in task["samples"]:
            place = int(shown["id"].split("-")[1])
            for number, run in enumerate(data["runs"]):
                told = comparison.outcomes[run["method"], run["keep"], task["name"]]
                assert shown["said"][number] == told.predictions[place]
                assert shown["kept"][number] == (None if number == 0 else list(told.kept[place]))
                assert (shown["credit"][number] > 0) == (shown["said"][number] != "nothing")
            content = b64decode(data["images"][shown["image"]].removeprefix("data:image/jpeg;base64,"))
            assert Image.open(io.BytesIO(content)).size == (16, 16)
    assert data["tasks"][0]["samples"][0]["answers"] == "red"
    assert data["tasks"][1]["samples"][0]["answers"] == "two (8 of 10), three (2)"


def test_samples_are_those_on_which_the_runs_differ_and_images_do_not_repeat(comparison: Comparison) -> None:
    (task, _) = report.browser(comparison, limit=10)["tasks"]
    differing = [len(set(shown["said"])) > 1 for shown in task["samples"]]
    assert all(differing)
    assert len({shown["image"] for shown in task["samples"]}) == 10
    places = [int(shown["id"].split("-")[1]) for shown in task["samples"]]
    assert places == sorted(places)


def test_images_are_stored_once(comparison: Comparison) -> None:
    found = report.browser(comparison, limit=30)
    assert len(found["images"]) == 15
    assert sum(len(task["samples"]) for task in found["tasks"]) == 60


def test_the_ledger_says_what_entered_each_layer(comparison: Comparison) -> None:
    found = report.ledger(comparison)
    assert found["none", 16] == ([16.0] * 4, "16 × 4")
    assert found["control", 4] == ([16.0, 0.0, 0.0, 0.0], "16 × 1, 0 × 3")


def test_sections_without_content_are_left_out(comparison: Comparison) -> None:
    assert not [a for _, a in Page(make(comparison)).tags if a.get("id") in ("plots", "methods")]


def test_vanilla_alone_makes_a_page(comparison: Comparison) -> None:
    alone = replace(comparison, rows=comparison.rows[:1])
    assert Page(make(alone)).rows
    assert report.header(alone)[-1] == "seconds"
    assert report.headlines(alone) == []


def test_curves_come_from_files_too_and_must_be_png(comparison: Comparison, tmp_path: Path) -> None:
    curve = tmp_path / "curve.png"
    curve.write_bytes(png(Image.new("RGB", (4, 4))))
    assert "data:image/png;base64,iVBOR" in make(comparison, curves=[("Training", curve)])
    with pytest.raises(ValueError, match="'Training' is no PNG"):
        make(comparison, curves=[("Training", b"GIF89a")])


def test_a_grid_that_is_no_square_must_be_given(comparison: Comparison) -> None:
    odd = replace(comparison, rows=(replace(comparison.rows[0], keep=15), *comparison.rows[1:]))
    with pytest.raises(ValueError, match="15 visual tokens do not fill 3 x 3"):
        report.browser(odd)
    with pytest.raises(ValueError, match="16 visual tokens do not fill 4 x 5"):
        report.browser(comparison, grid=(4, 5))
    assert report.browser(comparison, grid=(2, 8))["grid"] == [2, 8]


def test_the_environment_is_text_and_names_what_matters() -> None:
    found = environment()
    assert set("python torch transformers deap processor cores threads date".split()) <= found.keys()
    assert all(isinstance(value, str) and value for value in found.values())
    assert int(found["cores"]) >= 1
