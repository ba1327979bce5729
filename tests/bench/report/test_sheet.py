"""The page of a benchmark: tables, plots and facts, self-contained; texts cannot become markup."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from bench.report.pictures import png
from bench.report.sheet import Sheet, html
from bench.report.tables import Table
from tests.bench.report.test_page import EVIL, Page

TABLE = Table(["method", "ms"], [["fast", "1.0"], "slow ones", ["slow", "2.0"]], ["few rounds"])
FACTS = {"command": "evocomp bench x", "model": "micro", "modes": {"eager": "as it is"}, "keeps": [8, 4]}


def test_tables_notes_plots_facts_and_the_command_are_in_the_page() -> None:
    plots = {"times": png(Image.new("RGB", (8, 8), "red"))}
    page = html(Sheet("A title", "All in ms.", {"Times": TABLE, "More": TABLE}, FACTS, plots))
    found = Page(page)
    assert found.rows == [["method", "ms"], ["fast", "1.0"], ["slow ones"], ["slow", "2.0"]] * 2
    assert page.count("few rounds") == 2 and "<h1>A title</h1>" in page and "All in ms." in page
    assert ">evocomp bench x</pre>" in page and "<dt>command</dt>" not in page
    assert "<dt>modes</dt><dd>eager: as it is</dd>" in page and "<dt>keeps</dt><dd>8, 4</dd>" in page
    (image,) = (attributes for tag, attributes in found.tags if tag == "img")
    assert image["alt"] == "times" and image["src"].startswith("data:image/png;base64,")
    targets = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    ids = {attributes.get("id") for _, attributes in found.tags}
    assert targets == ["#table-1", "#table-2", "#plots", "#made"] and {one[1:] for one in targets} <= ids


def test_a_page_without_plots_has_no_place_for_them_and_requests_nothing() -> None:
    page = html(Sheet("A title", "", {"Times": TABLE}, {}))
    assert "plots" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S) and "<pre" not in page
    assert not re.search(r"@import|url\(|https?://|<script", page)
    assert """content="default-src 'none'""" in page


def test_texts_cannot_become_markup() -> None:
    evil = Table([EVIL], [[EVIL], EVIL], [EVIL])
    plots = {EVIL: png(Image.new("RGB", (8, 8), "red"))}
    page = html(Sheet(EVIL, EVIL, {EVIL: evil}, {EVIL: EVIL, "command": EVIL}, plots))
    assert "script" not in [tag for tag, _ in Page(page).tags]


def test_a_plot_that_is_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="'times' is not a PNG"):
        html(Sheet("A title", "", {}, {}, {"times": b"GIF89a"}))
