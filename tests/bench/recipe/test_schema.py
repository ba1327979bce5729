"""Recipes: what they may say, how they are changed, and that mistakes are answered in the user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from bench.recipe.forms import RecipeReport, notes
from bench.recipe.paper import Paper
from bench.recipe.plan import plan
from bench.recipe.run import networks
from bench.recipe.schema import RECIPES, known, parse, read
from bench.recipe.steps import Workspace

PAPERS = {*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(2, 7))}
ROWS: dict[str, Any] = {"grid": {"method": "grid"}, "own": {}}
PLAIN: dict[str, Any] = {"title": "t", "keep": [64], "of": 576, "rows": ROWS}


def refused(changes: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        parse({**PLAIN, **changes}, "test")
    return str(caught.value)


def test_every_table_and_figure_of_the_paper_has_a_recipe() -> None:
    assert set(known()) >= PAPERS


@pytest.mark.parametrize("name", known())
def test_shipped_recipes_are_sound_and_start_with_their_command(name: str) -> None:
    recipe = read(name)
    assert (RECIPES / f"{name}.yaml").read_text().startswith(f"# evocomp run {name}")
    assert recipe.title and (recipe.reference in recipe.rows or recipe.reference is None)
    if recipe.paper:
        theirs = Paper.of(recipe.paper)
        assert recipe.of == theirs.tokens and set(recipe.keep) == set(theirs.retain)
        assert {row for rows in theirs.retain.values() for row in rows} <= set(recipe.rows)


def test_budgets_are_scaled_to_the_model() -> None:
    recipe = parse({**PLAIN, "keep": [192, 128, 64]}, "test")
    assert recipe.budgets(144) == {48: 192, 32: 128, 16: 64}
    assert recipe.budgets(576) == {192: 192, 128: 128, 64: 64}
    assert recipe.budgets(144, free=True) == {"1/3": 192, "2/9": 128, "1/9": 64}
    assert parse({**PLAIN, "keep": ["1/9"]}, "test").budgets(144) == {"1/9": 64}
    assert parse({**PLAIN, "keep": ["1/9"], "of": None}, "test").budgets(144) == {"1/9": "1/9"}


def test_rows_lie_over_what_all_rows_learn_from() -> None:
    common = {"samples": 5, "train": {"loss": "ce", "epochs": 3}}
    told = {"learns": common, "rows": {"a": {"train": {"epochs": 9}}}}
    learns = parse({**PLAIN, **told}, "test").rows["a"].learns
    assert learns is not None
    assert (learns.samples, learns.train.loss, learns.train.epochs) == (5, "ce", 9)


def test_depth_is_the_layer_of_a_decoder_of_32() -> None:
    learns = parse({**PLAIN, "rows": {"a": {"depth": 2}}}, "test").rows["a"].learns
    assert learns is not None
    assert (learns.layer(32), learns.layer(12), learns.layer(40)) == (2, 1, 2)


def test_only_keeps_the_reference() -> None:
    recipe = read("table5").only(["CE only"])
    assert list(recipe.rows) == ["CE only", "EvoComp"]
    with pytest.raises(ValueError, match="did you mean 'CE only'"):
        read("table5").only(["CE onli"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"titel": "x"}, "unknown setting 'titel'; did you mean 'title'"),
        ({"keep": "many"}, "keep: keep='many': give a count of visual tokens from 1, or a ratio"),
        ({"keep": [600]}, "give budgets from 1 to 576"),
        ({"n": "all"}, "n='all': expected a whole number or null"),
        ({"match": "token"}, "expected one of tokens, equivalent, flops"),
        ({"reference": "grit"}, "unknown row 'grit'; did you mean 'grid'"),
        (
            {"learns": {"train": {"epoch": 2}}},
            "unknown setting of learns.train 'epoch'; did you mean",
        ),
        ({"learns": {"train": {"loss": "ghm+coss"}}}, "did you mean 'ghm+cos'"),
        ({"learns": {"train": {"seed": 1}}}, "seeds"),
        ({"learns": {"labels": {"kind": "bst"}}}, "did you mean 'best'"),
        ({"rows": {"a": {"label": {}}}}, "unknown setting of rows.a 'label'; did you mean 'labels'"),
        ({"rows": {"a": {"method": "grid", "depth": 1}}}, "rows.a: a row with method learns nothing"),
        ({"rows": {"a": {"source_gives": "indices"}}}, "rows.a: source_gives needs a model as source"),
        ({"learns": {"selects": "grid"}}, "choose a method that takes a compressor"),
        ({"learns": {"selects": "evocomp+", "depth": 2}}, "evocomp+ has its own"),
        ({"rows": ["a"]}, "rows: expected settings by name"),
        ({"title": None}, "title=None: expected a text"),
        ({"seeds": [0, 0]}, "name each seed once"),
        ({"seeds": []}, "seeds=[]: name at least one"),
        ({"tasks": []}, "tasks=[]: name at least one"),
        ({"keep": []}, "keep=[]: name at least one"),
        ({"n": 0}, "n=0: choose 1 or more"),
        ({"name": "../../../x"}, "name='../../../x': it names a folder"),
        ({"name": "/etc/x"}, "it names a folder"),
        ({"name": ".."}, "it names a folder"),
        ({"rows": {"none": {"method": "grid"}}}, "rows.none: this is the name of the untouched model"),
        ({"learns": {"depth": 32}}, "depth=32: choose a layer from 0 to 31"),
        ({"learns": {"train": {"lr": float("inf")}}}, "learns.train.lr=inf: choose a finite number"),
        ({"rows": {"a": {"method": None}, "b": {"train": [1]}}}, "rows.b.train: expected settings by name"),
        ({"title": ["x" * 10**6]}, "expected a text"),
        ({"latency": {"repetitions": 1}}, "latency: repetitions=1: choose 2 or more"),
        ({"edge": {"rounds": 0}}, "edge: rounds=0: choose 1 or more"),
        ({"edge": {"clock": "processor"}}, "edge: clock=processor is the time of one thread"),
        ({"draw": {"what": "groups", "groupers": ["gird"]}}, "did you mean 'grid'"),
        ({"draw": {"what": "kept"}, "rows": {}}, "there are no rows whose tokens could be drawn"),
        ({"mixture": "file.json"}, "mixture and images go together"),
        ({"draw": {"what": "groups", "groupers": ["grid:x=1"]}}, "unknown option of grouper 'grid' 'x'"),
        ({"learns": {"selects": "evocomp+:sharpness=-1"}}, "learns: sharpness=-1.0 is not positive"),
        ({"learns": {"selects": "evocomp+:layr=1"}}, "did you mean 'layer'"),
        ({"rows": {"": {"method": "grid"}}}, "rows: '' is not a valid row name"),
        ({"rows": {"=1+1": {"method": "grid"}}}, "rows: '=1+1' is not a valid row name: start with a letter"),
        ({"rows": {"a\nb": {"method": "grid"}}}, "rows: 'a b' is not a valid row name"),
        ({"rows": {"x" * 101: {"method": "grid"}}}, "at most 100 printable characters"),
        ({"seeds": [-1]}, "seeds=-1: choose whole numbers from 0"),
        ({"seeds": [2**63]}, "seeds=9223372036854775808: choose a whole number that fits into 64"),
        ({"search": {"seed": 10**30}}, "search.seed=1000000000000000000000000000000: choose a whole number"),
        ({"search": {"evaluations": 10**10}}, "choose 1 or more, and at most 1,000,000,000"),
        ({"learns": {"train": {"epochs": 10**10}}}, "learns.train: epochs=10000000000: choose 1"),
        ({"n": 10**12}, "n=1000000000000: choose 1,000,000,000 or fewer"),
        ({"learns": {"samples": 10**12}}, "learns: samples=1000000000000: choose 1,000,000,000 or fewer"),
    ],
)
def test_mistakes_are_named_with_their_place(changes: dict[str, Any], said: str) -> None:
    assert said in refused(changes)


def test_set_changes_what_a_key_with_dots_names() -> None:
    recipe = read("table5", ["n=7", "learns.train.epochs=2", "rows.CE only.train.epochs=3", "seeds=[4]"])
    first, second = recipe.rows["EvoComp"].learns, recipe.rows["CE only"].learns
    assert first and second
    assert (recipe.n, recipe.seeds, first.train.epochs, second.train.epochs) == (7, (4,), 2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs=2", "learns.train.epochs"),
        ("learns.train.epoch=2", "did you mean 'learns.train.epochs'"),
        ("n", "write key=value"),
        ("n=[", "not YAML"),
        ("n=few", "n='few': expected a whole number"),
    ],
)
def test_set_refuses_what_it_does_not_know(change: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read("table5", [change])
    assert said in str(caught.value)


def test_a_table_that_the_paper_does_not_have_is_refused_before_the_work() -> None:
    with pytest.raises(ValueError, match="unknown table of the paper 'tabel1'; did you mean 'table1'"):
        plan(parse({**PLAIN, "paper": "tabel1"}, "test"), cast(Workspace, None))


def test_recipes_of_ones_own_are_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: mine\nkeep: [64]\nof: 576\n")
    assert read(str(path)).name == "mine"
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="settings by name"):
        read(str(path))
    path.write_text("title: a\ntitle: b\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: not YAML \('title' occurs twice, line 2\)"):
        read(str(path))
    path.write_text("title: mine\nkeep: {a: 1}\nof: 576\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: keep="):
        read(str(path))
    with pytest.raises(ValueError, match="there is no recipe"):
        read(str(tmp_path / "other.yaml"))
    with pytest.raises(ValueError, match="did you mean 'table5'"):
        read("tabel5")


def test_budgets_may_be_ratios_and_are_where_tokens_follow_the_image() -> None:
    ratios = parse({"title": "t", "keep": ["33.3%", "1/9"], "rows": {}}, "t")
    assert ratios.budgets(144) == ratios.budgets(1225, free=True) == {"33.3%": "33.3%", "1/9": "1/9"}
    counts = parse({"title": "t", "keep": [192, 64], "of": 576, "rows": {}}, "t")
    assert counts.budgets(1225, free=True) == {"1/3": 192, "1/9": 64}
    with pytest.raises(ValueError, match="give the total as well, such as of: 576"):
        parse({"title": "t", "keep": [64], "rows": {}}, "t")
    labels = {"labels": {"keep": "11.1%"}}
    learner = parse({"title": "t", "keep": [64], "of": 576, "learns": labels, "rows": {"a": {}}}, "t")
    assert learner.rows["a"].learns and learner.rows["a"].learns.labels.keep == "11.1%"


def test_questions_about_each_image_are_one_or_four_and_of_the_miniature() -> None:
    row = {"rows": {"a": {"questions": 3}}}
    with pytest.raises(ValueError, match="rows.a: questions=3: choose 1 or 4 about each image"):
        parse({"title": "a test", "keep": [64], "of": 576, **row}, "test")
    row = {"rows": {"a": {"questions": 4}}, "mixture": "mix.json", "images": "images"}
    with pytest.raises(ValueError, match="rows.a: questions are chosen in the miniature only"):
        parse({"title": "a test", "keep": [64], "of": 576, **row}, "test")


def test_every_setting_of_learning_can_be_changed() -> None:
    learns = read("table5", ["learns.questions=4"]).rows["EvoComp"].learns
    assert learns is not None and learns.questions == 4


def test_a_method_with_a_compressor_is_a_network_as_a_row_that_learns_is() -> None:
    rows = {
        "ours": {}, "shipped": {"method": "evocomp+:near=0"}, "given": {"method": "evocomp:compressor=x"},
        "grid": {"method": "grid"}, "fastv": {"method": "fastv:layer=3"}, "mask": {"searched": "own"},
    }  # fmt: skip
    made = parse({"title": "a test", "keep": [64], "of": 576, "match": "tokens", "rows": rows}, "test")
    assert networks(made) == ["ours", "shipped", "given"]


def test_a_page_says_which_draw_its_losses_are_of() -> None:
    machine = {"cores": "2", "processor": "a CPU", "accelerator": "none", "torch": "2"}
    told = RecipeReport(
        recipe=parse(PLAIN, "test"), command="c", facts={"model": "micro"}, machine=machine, tokens=144,
        tasks=["gqa"], paper=None,
    )  # fmt: skip
    assert not any("first draw" in one for one in notes(told))
    told.headroom = [{"row": "random", "keep": 16, "loss": 0.5, "above": None}]
    assert any("a random method's first draw" in one for one in notes(told))
