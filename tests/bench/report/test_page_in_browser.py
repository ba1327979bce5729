"""The report's page as its reader has it: sorting, switching, keyboard, print; nothing requested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.evaluation.comparison import Comparison
from bench.evaluation.evaluate import Stage
from bench.evaluation.origin import Origin
from bench.report.gallery import Gallery
from bench.report.page import Page, html

STEPS = (Stage(-1, (1, 3, 9, -1, -1), (9,)), Stage(3, (3, 9), (9,)))  # of `ours` at 4 on the first sample


@pytest.fixture(scope="module")
def file(comparison: Comparison, gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ("ours", 4, "gqa")
    told = comparison.outcomes[key]
    outcomes = {**comparison.outcomes, key: replace(told, path=(STEPS, *told.path[1:]))}
    origin = Origin("A title", {"cpu": "two cores"}, ["evocomp compare --out tables"])
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html(Page(replace(comparison, outcomes=outcomes), origin, gallery, {}, {}, 60)))
    return path


@pytest.fixture()
def page(chromium: Any, file: Path) -> Iterator[Any]:
    """The page, opened; whatever was done to it, nothing may have been said or requested."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    page.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


def column(page: Any, place: int) -> list[list[str]]:
    """The cells of a column of the results, budget by budget."""
    read = "(body, place) => [...body.rows].slice(1).map(row => row.cells[place].dataset.value)"
    script = f"place => [...document.querySelectorAll('#results tbody')].map(body => ({read})(body, place))"
    return page.evaluate(script, place)


def kept(page: Any) -> list[int]:
    """Tokens that are bright."""
    return page.evaluate(
        "[...document.querySelectorAll('#panels i')].flatMap((i, at) => i.className === 'off' ? [] : [at])"
    )


def choose(page: Any, method: str, place: int = 0) -> None:
    """Click on the answer of a method at a budget."""
    page.locator("#answers tr", has_text=method).locator("label").nth(place).click()


def test_a_column_sorts_the_rows_of_every_budget(page: Any) -> None:
    assert column(page, 0) == [["none"], ["ours", "rival_1", "control"], ["ours", "rival_1", "control"]]
    head = page.locator("#results thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 1)[1:] == [["90.25", "80.25", "70.25"]] * 2
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 1)[1:] == [["70.25", "80.25", "90.25"]] * 2
    assert column(page, 0)[0] == ["none"]


def test_names_sort_by_keyboard_and_rows_without_a_figure_come_last(page: Any) -> None:
    page.locator("#results thead button").first.focus()
    page.keyboard.press("Enter")
    assert column(page, 0)[1:] == [["control", "ours", "rival_1"]] * 2
    last = page.locator("#results thead button").last
    for _ in range(2):
        last.press("Enter")
        assert column(page, 0)[1][-1] == "ours", "the reference has no difference from itself"


def test_answers_switch_method_and_budget(page: Any) -> None:
    choose(page, "rival_1", 0)
    assert kept(page) == [0, 1, 2, 3]
    assert "rival_1: 4 of 16 tokens left before the decoder" in page.inner_text("#state")
    choose(page, "rival_1", 1)
    assert kept(page) == [0, 1]
    choose(page, "none")
    assert kept(page) == list(range(16))
    assert "none: all 16 tokens" in page.inner_text("#state")


def test_stages_switch_and_merged_tokens_and_those_of_the_whole_image_show(page: Any) -> None:
    choose(page, "ours", 0)
    steps = page.locator("#steps label")
    assert steps.all_inner_texts() == ["in the tower", "before layer 3"]
    assert kept(page) == [3, 9] and page.locator("#whole").is_hidden()
    steps.nth(0).click()
    assert kept(page) == [1, 3, 9]
    assert page.evaluate("document.querySelectorAll('#panels i.merged').length") == 1
    assert page.inner_text("#whole") == "+2 for the whole image"
    assert "ours: 5 of 16 tokens left in the tower" in page.inner_text("#state")


def test_samples_and_tasks_switch_and_text_stays_text(page: Any) -> None:
    assert page.inner_text("#question").startswith("</script><script>alert(1)</script>")
    page.locator("#thumbs label").nth(4).click()
    assert page.inner_text("#sample") == "gqa-4"
    page.locator("#tasks label", has_text="vqav2").click()
    assert (page.inner_text("#sample"), page.inner_text("#gold")) == ("vqav2-0", "two (8 of 10), three (2)")
    loaded = "[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth === 16)"
    page.wait_for_function(loaded)


def test_samples_are_filtered_by_what_the_chosen_run_made_of_them(page: Any) -> None:
    choose(page, "control", 0)
    assert page.locator("#thumbs label").count() == 30
    page.select_option("#show", "lost")
    assert page.locator("#thumbs label").count() == 20
    assert page.inner_text("#found") == "20 of 30, control with 4 tokens"
    page.select_option("#show", "won")
    assert page.locator("#thumbs label").count() == 0


def test_arrows_move_between_methods_and_budgets(page: Any) -> None:
    choose(page, "ours", 1)
    for key, told in (
        ("ArrowDown", "rival_1: 2"), ("ArrowLeft", "rival_1: 4"), ("ArrowUp", "ours: 2"), ("ArrowUp", "none"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert page.inner_text("#state").startswith(told), key
    page.locator("#thumbs input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#sample") == "gqa-1"


def test_everything_that_acts_is_reached_by_tab(page: Any) -> None:
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.id || ''"))
    assert {"task", "show", "sample", "run"} <= reached


def test_dark_and_light_follow_the_reader_and_print_is_light(page: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    page.emulate_media(color_scheme="light")
    assert min(page.evaluate(ground)) > 230
    page.emulate_media(color_scheme="dark")
    assert max(page.evaluate(ground)) < 40
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ground) == [255, 255, 255]
    assert page.locator("nav").is_hidden() and page.locator("#results").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_makes_the_page_scroll_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
