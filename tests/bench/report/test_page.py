from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bench.evaluation.comparison import Comparison, ComparisonRow, Difficulty
from bench.evaluation.environment import environment
from bench.evaluation.evaluate import Outcome, Stage
from bench.evaluation.origin import Origin
from bench.report import outputs
from bench.report import page as report
from bench.report.gallery import Gallery, Panel, SampleImage, covered, jpeg
from bench.report.pictures import png
from bench.report.table import blocks, header, headlines, marks

KEEPS, METHODS = (4, 2), ("ours", "rival_1", "control")  # of the comparison made by hand
MakeOutcome = Callable[..., Outcome]
EVIL = """</script><script>alert(1)</script> & "quotes" <!-- ü"""


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


def make(
    comparison: Comparison, gallery: Gallery, origin: Origin | None = None, *,
    plots: dict[str, bytes] | None = None, about: dict[str, str] | None = None, samples: int = 24,
) -> str:  # fmt: skip
    told = origin or Origin("A title", {"python": "3.11 <b>"})
    return report.html(report.Page(comparison, told, gallery, plots or {}, about or {}, samples))


@pytest.fixture(scope="module")
def page(comparison: Comparison, gallery: Gallery) -> str:
    curve = png(Image.new("RGB", (8, 8), "red"))
    origin = Origin("A title", {"python": "3.11 <b>"}, ["evocomp demo"])
    return make(comparison, gallery, origin, plots={"Loss": curve}, about={"ours": "Does it."})


def unpacked(mask: str) -> list[int]:
    """The tokens of a set in the page's data."""
    bits = "".join(f"{byte:08b}"[::-1] for byte in b64decode(mask))
    return [index for index, bit in enumerate(bits) if bit == "1"]


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_the_page_is_well_formed_and_has_every_row(comparison: Comparison, page: str) -> None:
    rows = [[cell.strip() for cell in row] for row in Page(page).rows]
    for block in blocks(comparison):
        assert [block.title] in rows
        for row in block.rows:
            scores = [f"{value:.1f}" for value in row.scores.values()]
            costs = [f"{value:.1f}" for value in (row.tokens, row.left, row.flops)]
            line = [row.method, *scores, f"{row.average:.1f}{marks(comparison, row)}", *costs]
            assert line in [cells[:7] for cells in rows]


def test_the_page_requests_nothing(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            address = attributes.get(name, "")
            assert address.startswith(("data:", "#")) or not address, (tag, address[:60])
    assert not re.search(r"@import|url\(|https?://|fetch\(|XMLHttpRequest", page)
    assert """content="default-src 'none'""" in page


def test_text_from_samples_and_names_cannot_become_markup(comparison: Comparison, gallery: Gallery) -> None:
    hostile = [replace(row, method=EVIL) if row.method == "control" else row for row in comparison.rows]
    outcomes = {(EVIL if m == "control" else m, k, t): o for (m, k, t), o in comparison.outcomes.items()}
    page = make(
        replace(comparison, rows=tuple(hostile), outcomes=outcomes), gallery,
        Origin(EVIL, {EVIL: EVIL}, [EVIL]), about={EVIL: EVIL},
    )  # fmt: skip
    assert "alert(1)</script>" not in page
    assert [tag for tag, _ in Page(page).tags].count("script") == 2
    assert any(s["question"] == EVIL for task in data_of(page)["tasks"] for s in task["samples"])


def test_the_browser_of_a_mixed_table_tells_every_vanilla_from_the_budgets(
    comparison: Comparison, gallery: Gallery
) -> None:
    """The second vanilla's tokens are no budget, so they have no column."""
    whole, *others = comparison.rows
    rows = (whole, replace(whole, method="none [2]"), *others)
    again = {("none [2]", keep, task): one for (name, keep, task), one in comparison.outcomes.items()
             if name == "none"}  # fmt: skip
    mixed = replace(comparison, rows=rows, outcomes={**comparison.outcomes, **again}, mixed=("[2] batch",))
    data = data_of(make(mixed, gallery))
    assert data["untouched"] == 2
    assert {run["keep"] for run in data["runs"][2:]} == set(KEEPS)


def test_the_browser_of_samples_has_all_that_it_draws(comparison: Comparison, page: str) -> None:
    data = data_of(page)
    assert data["layouts"] == [[[0, 4, 4, 4, 1, 1]]]
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
                if number == 0:
                    assert shown["kept"][number] is None
                else:
                    ((depth, kept, merged, whole),) = shown["kept"][number]
                    assert unpacked(data["masks"][kept]) == [i for i in told.kept[place] if i >= 0]
                    assert (depth, unpacked(data["masks"][merged])) == (0, [])
                    assert whole == told.kept[place].count(-1)
                assert (shown["credit"][number] > 0) == (shown["said"][number] != "nothing")
            content = b64decode(data["pictures"][shown["picture"]].removeprefix("data:image/jpeg;base64,"))
            assert Image.open(io.BytesIO(content)).size == (16, 16)
    assert data["tasks"][0]["samples"][0]["answers"] == "red"
    assert data["tasks"][1]["samples"][0]["answers"] == "two (8 of 10), three (2)"


def test_samples_are_those_on_which_the_runs_differ_and_images_do_not_repeat(
    comparison: Comparison, gallery: Gallery
) -> None:
    tasks = report.browser(comparison, gallery, limit=20)["tasks"]
    for task in tasks:
        differing = [len(set(shown["said"])) > 1 for shown in task["samples"]]
        assert all(differing)
        assert len({shown["picture"] for shown in task["samples"]}) == 10
        places = [int(shown["id"].split("-")[1]) for shown in task["samples"]]
        assert places == sorted(places)


def test_pictures_and_sets_of_tokens_are_stored_once(comparison: Comparison, gallery: Gallery) -> None:
    found = report.browser(comparison, gallery, limit=60)
    assert sum(len(task["samples"]) for task in found["tasks"]) == 60
    assert len(found["pictures"]) == 15
    assert len(found["masks"]) == 5  # of 360 runs of a sample: two budgets of two kinds, and nothing merged


def test_stages_tell_what_merged_and_what_stands_for_the_whole_image(
    comparison: Comparison, gallery: Gallery
) -> None:
    key = ("ours", 4, "gqa")
    told = comparison.outcomes[key]
    path = (Stage(-1, (1, 9, 3, -1, -1), (9,)), Stage(3, (9, 3), (9,)))
    changed = replace(told, path=(path, *told.path[1:]), kept=((9, 3), *told.kept[1:]))
    data = report.browser(replace(comparison, outcomes={**comparison.outcomes, key: changed}), gallery, 60)
    run = data["runs"].index({"method": "ours", "keep": 4})
    (first,) = (one for one in data["tasks"][0]["samples"] if one["id"] == "gqa-0")
    read = [
        (d, unpacked(data["masks"][k]), unpacked(data["masks"][m]), w) for d, k, m, w in first["kept"][run]
    ]
    assert read == [(-1, [1, 3, 9], [9], 2), (3, [3, 9], [9], 0)]


def test_samples_without_a_picture_are_left_out(comparison: Comparison, gallery: Gallery) -> None:
    some = {"gqa": dict(list(gallery["gqa"].items())[:3])}
    tasks = report.browser(comparison, some)["tasks"]
    assert [len(task["samples"]) for task in tasks] == [3, 0]
    report_without = report.Page(comparison, Origin("A title", {}), {}, {}, {})
    assert "no pictures of the samples" in report.html(report_without)


def test_a_run_over_other_samples_has_said_nothing_here(comparison: Comparison, gallery: Gallery) -> None:
    """Rows of another protocol, in a mixed table, may be of other samples."""
    key = ("control", 2, "gqa")
    other = replace(comparison.outcomes[key], samples=tuple(f"other-{i}" for i in range(30)))
    data = report.browser(replace(comparison, outcomes={**comparison.outcomes, key: other}), gallery)
    run = data["runs"].index({"method": "control", "keep": 2})
    assert all(one["said"][run] is None and one["kept"][run] is None for one in data["tasks"][0]["samples"])
    assert all(one["said"][run] for one in data["tasks"][1]["samples"])


def test_the_ledger_says_what_entered_each_layer(comparison: Comparison) -> None:
    found = report.ledger(comparison)
    assert found["none", 16] == ([16.0] * 4, "16 × 4")
    assert found["control", 4] == ([16.0, 0.0, 0.0, 0.0], "16 × 1, 0 × 3")


def test_sections_without_content_are_left_out(comparison: Comparison, gallery: Gallery) -> None:
    assert not [a for _, a in Page(make(comparison, gallery)).tags if a.get("id") in ("plots", "methods")]


def test_vanilla_alone_makes_a_page(comparison: Comparison, gallery: Gallery) -> None:
    alone = replace(comparison, rows=comparison.rows[:1])
    assert Page(make(alone, gallery)).rows
    assert header(alone)[-1] == "FLOPs %"
    assert headlines(alone) == []


def test_the_page_says_what_is_equivalent_what_is_hard_and_what_is_mixed(
    comparison: Comparison, gallery: Gallery
) -> None:
    hard = (Difficulty("gqa", 4, "control", 20, 10, {"none": 95.0, "ours": 61.5, "control": 0.0}),)
    why = "[2] other: batch is 16 there and 8 here"
    page = make(replace(comparison, difficulty=hard, mixed=(why,)), gallery)
    rows = [[cell.strip() for cell in row] for row in Page(page).rows]
    assert ["ours", "90.2", "89.0", "90.0"] in [row[:4] for row in rows]
    assert ["rival_1", "80.2", "79.0", "80.0"] in [row[:4] for row in rows]
    assert "* a significant difference" in page
    assert "Equivalent to" not in page
    assert "70.0†" in make(replace(comparison, margin=23.0), gallery)
    assert ["questions control misses", "4", "10 of 30", "–", ""] in rows
    assert ["ours", "4", "61.5", "–", "64.7"] in rows
    assert page.count(why) == 1 and "Mixed protocols" in page
    assert "Mixed protocols" not in make(comparison, gallery) and "Hard questions" not in make(
        comparison, gallery
    )


def test_a_run_without_answers_leaves_a_dash(comparison: Comparison, gallery: Gallery) -> None:
    gone = {key: one for key, one in comparison.outcomes.items() if key[:2] != ("control", 2)}
    empty = ComparisonRow("control", 2, {}, None, None, None, None)
    rows = tuple(empty if (r.method, r.keep) == ("control", 2) else r for r in comparison.rows)
    why = {("control", 2, task): "out of reach" for task in comparison.tasks}
    page = make(replace(comparison, rows=rows, outcomes=gone, impossible=why), gallery)
    cells = [[cell.strip() for cell in row] for row in Page(page).rows]
    assert ["control", *"–––––––"][:7] == next(
        row[:7] for row in cells if row[0] == "control" and row[1] == "–"
    )
    assert "– control at 2: out of reach" in page
    run = data_of(page)["runs"].index({"method": "control", "keep": 2})
    assert all(s["said"][run] is None for task in data_of(page)["tasks"] for s in task["samples"])


def test_plots_must_be_png(comparison: Comparison, gallery: Gallery) -> None:
    assert "data:image/png;base64,iVBOR" in make(
        comparison, gallery, plots={"Training": png(Image.new("RGB", (4, 4)))}
    )
    with pytest.raises(ValueError, match="'Training' is not a PNG"):
        make(comparison, gallery, plots={"Training": b"GIF89a"})


def test_200_photographs_under_twenty_methods_stay_below_5_mib(make_outcome: MakeOutcome) -> None:
    """Images of 336 pixels with some noise, 576 tokens, random choices that share no set of tokens."""
    rng = np.random.default_rng(0)
    tokens, keeps, ids = 576, (192, 64), [f"gqa-{i}" for i in range(200)]
    runs = [("none", tokens), *((f"method {i}", keep) for i in range(20) for keep in keeps)]
    rows, outcomes = [], {}
    for method, keep in runs:
        one = make_outcome("gqa", rng.integers(0, 2, 200))
        paths = tuple(
            (Stage(0, tuple(rng.choice(tokens, keep, replace=False).tolist())),) if keep < tokens else ()
            for _ in ids
        )
        outcomes[method, keep, "gqa"] = replace(one, path=paths)
        rows.append(
            ComparisonRow(method, keep, {"gqa": one.score}, 90.0, keep, keep, 9.0, 1.0, method == "none")
        )
    pictures = {}
    for name in ids:
        smooth = Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize((336, 336))
        pixels = np.asarray(smooth) + rng.normal(0, 5, (336, 336, 3))
        image = covered(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), (Panel(0, 24, 24, 24),))
        pictures[name] = SampleImage(name, "", "What is it?", ("red",), jpeg(image), (Panel(0, 24, 24, 24),))
    told = report.Page(
        Comparison(("gqa",), tuple(rows), outcomes), Origin("Many", {}), {"gqa": pictures}, {}, {}
    )
    page = report.html(told)
    assert len(data_of(page)["tasks"][0]["samples"]) == 200
    assert len(page.encode()) < 5 * 2**20


def test_methods_are_described_that_a_row_names_with_or_without_more(comparison: Comparison) -> None:
    names = ("none", "fastv:layer=3", "evocomp+@0, random labels", "dart-input [2]")
    rows = tuple(ComparisonRow(name, 16, {}, None, None, None, None) for name in names)
    told = outputs.report(replace(comparison, rows=rows, outcomes={}), Origin("A title", {}), {})
    assert set(told.about) == {"none", "fastv", "evocomp+", "dart-input"}


def test_the_environment_is_text_and_names_what_matters() -> None:
    found = environment()
    assert set("python torch transformers deap processor cores threads".split()) <= found.keys()
    assert all(isinstance(value, str) and value for value in found.values())
    assert int(found["cores"]) >= 1
