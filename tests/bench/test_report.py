from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import report
from bench.comparison import Comparison, Contrast, Difficulty, Row
from bench.environment import environment
from bench.evaluate import Outcome
from bench.pictures import png
from bench.stats import Interval, Pairs
from bench.table import blocks
from compress.samples import Sample

TOKENS, KEEPS, METHODS = 16, (4, 2), ("ours", "rival_1", "control")
SCORES = {"ours": 90.0, "rival_1": 80.0, "control": 70.0}
MakeOutcome = Callable[..., Outcome]
EVIL = """</script><script>alert(1)</script> & "quotes" <!-- ü"""


def sample(task: str, number: int) -> Sample:
    rng = np.random.default_rng(number // 2)  # pairs share their image, as the rotations of MMBench do
    image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    question = EVIL if number == 0 else f"question {number} of {task} ?"
    answers = ("red",) if task == "gqa" else ("two",) * 8 + ("three",) * 2
    return Sample(f"{task}-{number}", image, question, answers, task=task, family="color")


def outcome(make: MakeOutcome, task: str, method: str, keep: int, samples: list[Sample]) -> Outcome:
    """Sample i is answered right by the first 1 + i % 3 methods; `ours` has a token for the whole image."""
    place = METHODS.index(method) if method in METHODS else 0
    right = [float(place <= i % 3) for i in range(len(samples))]
    said = [s.answers[0] if hit else "nothing" for s, hit in zip(samples, right, strict=True)]
    kept = (*range(5, 4 + keep), -1) if method == "ours" else tuple(range(keep))
    late = method == "control" and keep == 4
    entering = (16.0, 0.0, 0.0, 0.0) if late else (float(keep),) * 4
    return make(task, right, said=said, kept=kept, entering=entering)


@pytest.fixture(scope="module")
def comparison(make_outcome: MakeOutcome) -> Comparison:
    samples = {task: [sample(task, i) for i in range(30)] for task in ("gqa", "vqav2")}
    outcomes = {
        (method, keep, task): outcome(make_outcome, task, method, keep, listed)
        for task, listed in samples.items()
        for method, keep in [("none", TOKENS), *((m, k) for m in METHODS for k in KEEPS)]
    }
    scores = {"gqa": 88.84, "vqav2": 91.0}
    rows = [Row("none", TOKENS, scores, 100.0, 16.0, 16.0, 100.0, 3.0, untouched=True)]
    for keep in KEEPS:
        for method in METHODS:
            score = SCORES[method]
            gap = Interval(score - 90, score - 92.04, score - 88)
            rows.append(
                Row(
                    method, keep, {"gqa": score + 0.25, "vqav2": score - 1}, score, keep, keep, 5.5 * keep,
                    1.26,
                    vanilla=contrast("none", Interval(score - 100, score - 102, score - 98), 0.01),
                    reference=None if method == "ours" else contrast("ours", gap, 0.01),
                )
            )  # fmt: skip
    return Comparison(("gqa", "vqav2"), tuple(rows), outcomes, samples, reference="ours")


def contrast(rival: str, gap: Interval, p: float) -> Contrast:
    """gqa differs as clearly as the average, vqav2 does not."""
    told, silent = Pairs(1, 9, p, p), Pairs(3, 3, 1.0, 1.0)
    return Contrast(rival, gap, p, p, told, {"gqa": told, "vqav2": silent})


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


def test_the_page_is_well_formed_and_has_every_row(comparison: Comparison, page: str) -> None:
    rows = [[cell.strip() for cell in row] for row in Page(page).rows]
    for block in blocks(comparison):
        assert [block.title] in rows
        for row in block.rows:
            scores = [f"{value:.1f}{report.marks(row, task)}" for task, value in row.scores.items()]
            costs = [f"{value:.1f}" for value in (row.tokens, row.left, row.flops, row.seconds)]
            line = [row.method, *scores, f"{row.average:.1f}{report.marks(row)}", *costs]
            assert line in [cells[:8] for cells in rows]


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
    assert report.header(alone)[-1] == "FLOPs %"
    assert report.headlines(alone) == []


def test_the_page_says_what_does_not_differ_what_is_hard_and_what_is_mixed(comparison: Comparison) -> None:
    hard = (Difficulty("gqa", 4, "control", 20, 10, {"none": 95.0, "ours": 61.5, "control": 0.0}),)
    why = "[2] other: batch is 16 there and 8 here"
    page = make(replace(comparison, difficulty=hard, mixed=(why,)))
    rows = [[cell.strip() for cell in row] for row in Page(page).rows]
    assert ["ours", "90.2", "89.0°", "90.0"] in [row[:4] for row in rows]
    assert ["rival_1", "80.2", "79.0°†", "80.0"] in [row[:4] for row in rows]
    assert "Not significantly different from ° none and † ours" in page
    assert ["questions control misses", "4", "10 of 30", "–", ""] in rows
    assert ["ours", "4", "61.5", "–", "64.7"] in rows
    assert page.count(why) == 1 and "Mixed protocols" in page
    assert "Mixed protocols" not in make(comparison) and "Hard questions" not in make(comparison)


def test_a_run_without_answers_leaves_a_dash(comparison: Comparison) -> None:
    gone = {key: one for key, one in comparison.outcomes.items() if key[:2] != ("control", 2)}
    empty = Row("control", 2, {}, None, None, None, None, 0.0)
    rows = tuple(empty if (r.method, r.keep) == ("control", 2) else r for r in comparison.rows)
    why = {("control", 2, task): "out of reach" for task in comparison.tasks}
    page = make(replace(comparison, rows=rows, outcomes=gone, impossible=why))
    cells = [[cell.strip() for cell in row] for row in Page(page).rows]
    assert ["control", *"–––––––"][:7] == next(
        row[:7] for row in cells if row[0] == "control" and row[1] == "–"
    )
    assert "– control at 2: out of reach" in page
    run = data_of(page)["runs"].index({"method": "control", "keep": 2})
    assert all(s["said"][run] is None for task in data_of(page)["tasks"] for s in task["samples"])


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
