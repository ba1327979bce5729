"""Plans worked off on the tiny model: nothing twice, nothing stale, and a kill loses one cell."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.evaluation import cellwork
from bench.evaluation.cells import Cell, CellKey, read_cells
from bench.evaluation.compressors import selector_for
from bench.evaluation.history import Times, WorkRecord
from bench.evaluation.merge import merge
from bench.evaluation.protocol import of_method
from bench.evaluation.stats import mean_interval
from bench.recipe import schema
from bench.recipe.draw import about_one_image
from bench.recipe.estimate import estimates
from bench.recipe.oracle import LossesStep, SearchStep, headroom, partners
from bench.recipe.plan import Plan, plan, validation
from bench.recipe.run import label_costs, run
from bench.recipe.schema import Recipe, parse
from bench.recipe.steps import (
    AnswerStep,
    LabelStep,
    SamplePool,
    Step,
    TrainStep,
    Workspace,
    base,
    labelling,
    training,
)
from bench.tasks.images import ImageFile
from bench.tasks.scenes import Scenes
from bench.tasks.textvqa import TextVQA
from compress.labels import LabelConfig, label, sample_key
from compress.models.loading import MLLM, load
from compress.samples import Sample
from tests.cli import run as command

TOLD: dict[str, Any] = {
    "title": "a test", "keep": [64], "of": 576, "tasks": ["gqa"], "n": 3, "paper": "table1",
    "reference": "EvoComp@0",
    "learns": {"samples": 4, "labels": {"evaluations": 12}, "train": {"epochs": 1, "batch": 4}},
    "rows": {"grid": {"method": "grid"}, "ce": {"train": {"loss": "ce"}}, "EvoComp@0": {}},
}  # fmt: skip


@contextmanager
def quiet(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def recipe(**changes: Any) -> Recipe:
    return parse({**TOLD, **changes}, "test")


def shop(mllm: MLLM, folder: Path, **others: MLLM) -> Workspace:
    models = {"micro": mllm, **others}
    return Workspace(folder, models.__getitem__, cache(lambda name: models[name].fingerprint()))


def worked(planned: Plan) -> Path:
    return run(planned, quiet, "evocomp run test")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the steps that were really worked on."""
    titles: list[str] = []
    for kind in (LabelStep, TrainStep, AnswerStep):
        work = kind.work

        def noted(self: Step, report: Any, work: Any = work) -> None:
            titles.append(self.title)
            work(self, report)

        monkeypatch.setattr(kind, "work", noted)
    return titles


@pytest.fixture(scope="module")
def finished(tiny: MLLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of runs with the recipe worked off, and the folder of its results."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, worked(plan(recipe(), shop(tiny, folder)))


def test_a_finished_recipe_leaves_tables_and_a_comparison(finished: tuple[Path, Path]) -> None:
    _, result = finished
    told = json.loads((result / "results.json").read_text())
    assert [row["row"] for row in told["rows"]] == ["grid", "ce", "EvoComp@0"]
    assert told["rows"][2]["paper"] == {"gqa": 56.1} and told["rows"][0]["paper_average"] is None
    works = [Times.read(result.parent / "steps" / step["step"]).work for step in told["steps"]]
    assert [len(work) for work in works] == [1] * len(works)
    assert all(work[0].forwards > 0 and work[0].date and work[0].environment["torch"] for work in works)
    assert Times.read(result).seconds.keys() == {"label", "train", "answer"}
    page = (result / "table.md").read_text()
    assert "16 of 144 visual tokens (the paper's 64 of 576)" in page and "| grid |" in page
    assert "- Answers per task (images): gqa 3 (3).\n" in page
    assert (result / "table.tex").read_text().startswith(r"\begin{tabular}")
    joined = merge([result / "comparison"], reference="EvoComp@0")
    assert {row.method for row in joined.rows} == {"none", "grid", "ce", "EvoComp@0"}


def test_nothing_is_done_twice(tiny: MLLM, finished: tuple[Path, Path], done: list[str]) -> None:
    folder, result = finished
    before = (result / "table.md").read_text().splitlines()[:8]
    assert worked(plan(recipe(), shop(tiny, folder))) == result
    assert done == []
    assert (result / "table.md").read_text().splitlines()[:8] == before


def test_an_interrupted_recipe_ends_identical_byte_for_byte(
    tiny: MLLM, tmp_path: Path, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = finished
    replace, left = os.replace, 0

    def failing(part: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise OSError("no space")
        replace(part, target)

    monkeypatch.setattr(os, "replace", failing)
    failures = 0
    for files_before in (1, 5, 14, 27, 1000):
        left = files_before
        with suppress(OSError):
            worked(plan(recipe(), shop(tiny, tmp_path)))
            break
        failures += 1
    assert failures >= 3
    monkeypatch.undo()
    there, here = files(result), files(tmp_path / result.relative_to(folder))
    assert there.keys() == here.keys()
    differ = {name for name in there if there[name] != here[name]}
    assert {Path(name).name for name in differ} <= {"times.json"}
    assert {"results.json", "table.md", "comparison/report.html", "comparison/run.json"} <= here.keys()
    for step in (folder / "steps").iterdir():
        assert (step / "step.json").read_text() == (tmp_path / "steps" / step.name / "step.json").read_text()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_changed_setting_redoes_what_hangs_on_it(
    tiny: MLLM, finished: tuple[Path, Path], done: list[str]
) -> None:
    folder, result = finished
    rows = {**TOLD["rows"], "ce": {"train": {"loss": "ce", "epochs": 2}}}
    other = worked(plan(recipe(rows=rows), shop(tiny, folder)))
    assert done == ["train: ce, seed 0", "answer"]
    assert other != result


def test_one_row_shares_labels_and_answers(tiny: MLLM, tmp_path: Path, done: list[str]) -> None:
    worked(plan(recipe().only(["ce"]), shop(tiny, tmp_path)))
    assert done == ["label: best, vocabulary", "train: ce, seed 0", "train: EvoComp@0, seed 0", "answer"]
    cells = {cell.key.method for cell in read_cells(next((tmp_path / "steps").glob("answer-*")))}
    done.clear()
    worked(plan(recipe(), shop(tiny, tmp_path)))
    assert done == ["answer"]
    more = {cell.key.method for cell in read_cells(next((tmp_path / "steps").glob("answer-*")))} - cells
    assert [name.partition(" ")[0] for name in more] == ["grid"]


def test_more_samples_extend_a_store_and_fewer_take_a_part(tiny: MLLM, tmp_path: Path) -> None:
    few = recipe(rows={"a": {}}, reference=None, learns={**TOLD["learns"], "samples": 3})
    many = recipe(rows={"a": {}}, reference=None)
    first, second = (plan(one, shop(tiny, tmp_path)).stores["a", 0] for one in (few, many))
    assert first.folder == second.folder
    second.do(quiet)
    assert first.done and len(first.labels()) == 3 and len(second.labels()) == 4
    trains = [plan(one, shop(tiny, tmp_path)).trains["a", 0] for one in (few, many)]
    assert trains[0].digest != trains[1].digest


def test_label_losses_are_of_the_recipes_own_samples(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"a": {}, "b": {"labels": {"kind": "random"}}}
    for store in plan(recipe(rows=rows, reference="a"), shop(tiny, tmp_path)).stores.values():
        store.do(quiet)  # four labels, which another recipe left
    few = recipe(rows=rows, reference="a", learns={**TOLD["learns"], "samples": 3})
    own, other = label_costs(plan(few, shop(tiny, tmp_path)))
    assert (own["samples"], other["samples"]) == (3, 3)
    assert other["against the reference"]["common samples"] == 3


def test_labels_of_other_questions_are_not_compared_in_loss(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"a": {}, "b": {"questions": 4}}
    planned = plan(recipe(rows=rows, reference="a"), shop(tiny, tmp_path))
    for store in planned.stores.values():
        store.do(quiet)
    assert [line["against the reference"] for line in label_costs(planned)] == [None, None]


def test_random_labels_are_drawn_anew_for_every_seed(tiny: MLLM, tmp_path: Path) -> None:
    """Searched ones are not: their seeds are of training alone."""
    rows = {"a": {}, "b": {"labels": {"kind": "random"}}}
    planned = plan(recipe(rows=rows, reference="a", seeds=[0, 1]), shop(tiny, tmp_path))
    assert planned.stores["a", 0].digest == planned.stores["a", 1].digest
    for store in planned.stores.values():
        store.do(quiet)
    assert planned.trains["b", 1].labels is planned.stores["b", 1]
    first, second = (planned.stores["b", seed].labels() for seed in (0, 1))
    assert [one.kept for one in first] != [one.kept for one in second]
    assert [line["row"] for line in label_costs(planned)] == ["a", "b, seed 0", "b, seed 1"]


def test_samples_that_are_given_up_leave_their_step_done(tiny: MLLM, tmp_path: Path) -> None:
    """Of three samples the middle one has no picture."""
    first, lost, last = Scenes().micro(12)[::4]
    asked = [first, replace(lost, picture=ImageFile(tmp_path, "lost.png")), last]
    made, config = shop(tiny, tmp_path / "runs"), LabelConfig(evaluations=12, keep=16)
    step = LabelStep(made, "label", "micro", config, SamplePool({"samples": "three"}, lambda n: asked[:n]), 3)
    assert step.do(quiet) and step.done and not step.do(quiet)
    assert [one.id for one in step.labels()] == [sample_key(first), sample_key(last)]
    answers = plan(recipe(), made).answers
    oracle = SearchStep(made, "answer", "searched", False, answers, {(16, "scenes"): step})
    with pytest.raises(ValueError, match="1 samples of scenes have no mask"):
        oracle.masks(16, Scenes(), asked)


def test_a_row_may_label_several_questions_about_each_image(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(rows={"one": {}, "four": {"questions": 4}}, reference=None)
    one, four = plan(asked, shop(tiny, tmp_path)).stores.values()
    assert [sample.id.removeprefix("mixture-train-") for sample in one.samples] == ["0", "1", "2", "3"]
    about_one_image = ["0.0", "0.1", "0.2", "0.3"]
    assert [sample.id.removeprefix("mixture-train-") for sample in four.samples] == about_one_image
    assert one.digest != four.digest


def test_shipped_labels_of_the_same_settings_are_taken(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = recipe(rows={"a": {}}, reference=None, learns={**TOLD["learns"], "samples": 3})
    first = plan(few, shop(tiny, tmp_path / "first")).stores["a", 0]
    first.do(quiet)
    monkeypatch.setattr(labelling, "SHIPPED", tmp_path / "shipped")
    shutil.copytree(first.folder, tmp_path / "shipped" / "micro" / "labels" / "any")
    asked = recipe(rows={"a": {}, "b": {"labels": {"evaluations": 13}}}, reference=None)
    same, other = plan(asked, shop(tiny, tmp_path / "second")).stores.values()
    assert (same.finished, other.finished) == (3, 0)
    labelled: list[int] = []
    monkeypatch.setattr(
        labelling, "label", lambda *given, **more: labelled.append(1) or label(*given, **more)
    )
    assert same.do(quiet) and labelled == [1]
    assert same.labels()[:3] == first.labels() and len(same.labels()) == 4
    assert [run.samples for run in same.store().runs()] == [1]  # only what was searched here has a rate
    fresh = replace(shop(tiny, tmp_path / "third"), shipped=False)
    assert plan(asked, fresh).stores["a", 0].finished == 0


def test_what_ships_is_what_a_search_finds(tmp_path: Path) -> None:
    told = recipe(rows={"a": {}}, reference=None, learns={"samples": 2})
    made = shop(load("micro"), tmp_path)
    shipped, searched = (plan(told, one).stores["a", 0] for one in (made, replace(made, shipped=False)))
    assert shipped.done and not searched.done
    searched.do(quiet)
    ready = shipped.ready
    assert ready is not None
    assert all(one.kept == ready[one.id].kept for one in searched.labels())


def test_other_code_takes_nothing_that_the_old_one_made(
    tiny: MLLM, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    assert all(step.done for step in plan(recipe(), shop(tiny, folder)).steps)
    monkeypatch.setattr(base, "fingerprint", lambda *starts: "other")
    assert not any(step.done for step in plan(recipe(), shop(tiny, folder)).steps)


def test_another_model_takes_nothing_either(tiny: MLLM, tiny_wide: MLLM, finished: tuple[Path, Path]) -> None:
    folder, _ = finished
    assert not any(step.done for step in plan(recipe(), shop(tiny_wide, folder)).steps)


def test_a_kill_loses_one_cell_at_most(tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(rows={"grid": {"method": "grid"}, "random": {"method": "random"}}, reference=None)
    answer, computed = cellwork.answer, [0]

    def killed(*given: Any, **options: Any) -> Any:
        computed[0] += 1
        if computed[0] == 3:
            raise KeyboardInterrupt
        return answer(*given, **options)

    monkeypatch.setattr(cellwork, "answer", killed)
    with pytest.raises(KeyboardInterrupt):
        worked(plan(asked, shop(tiny, tmp_path)))
    half = plan(asked, shop(tiny, tmp_path)).answers
    assert (half.finished, half.units, half.done) == (6, 9, False)
    worked(plan(asked, shop(tiny, tmp_path)))
    assert computed[0] == 3 + 5  # random draws five times


def test_seeds_are_averaged_and_kept_apart(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(rows={"EvoComp@0": {}}, seeds=[0, 1])
    result = worked(plan(asked, shop(tiny, tmp_path)))
    (row,) = json.loads((result / "results.json").read_text())["rows"]
    assert len(row["seeds"]) == 2 and row["average"] == pytest.approx(sum(row["seeds"]) / 2)
    methods = {row.method for row in merge([result / "comparison"]).rows}
    assert methods == {"none", "EvoComp@0, seed 0", "EvoComp@0, seed 1"}


def finished_answers(folder: Path) -> Sequence[WorkRecord]:
    steps = sorted((folder / "steps").glob("answer-*"))
    return [record for step in steps for record in Times.read(step).work]


def test_estimates_tell_what_is_left_by_rates_measured_in_the_folder(
    tiny: MLLM, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = finished
    fresh = estimates(plan(recipe(), shop(tiny, tmp_path)).steps, shop(tiny, tmp_path))
    label = next(one for one in fresh if one.step.kind == "label")
    assert label.forwards == 4 * (12 + 2) and not list(tmp_path.iterdir())
    assert all(one.seconds is None for one in fresh)
    later = estimates(plan(recipe(n=4), shop(tiny, folder)).steps, shop(tiny, folder))
    (label, answer) = (next(one for one in later if one.step.kind == kind) for kind in ("label", "answer"))
    assert (label.state, label.seconds) == ("done", 0)
    records = finished_answers(folder)
    rate = sum(one.seconds for one in records) / sum(one.forwards for one in records)
    assert answer.seconds == pytest.approx(answer.forwards * rate)
    eight = replace(shop(tiny, folder), workers=8)
    divided = estimates(plan(recipe(n=4, seeds=[7]), eight).steps, eight)
    kinds = {one.step.kind: one for one in divided}
    assert kinds["answer"].seconds == pytest.approx(kinds["answer"].forwards * rate / 8)
    assert (kinds["answer"].measured, kinds["train"].measured) == (1, None)  # nobody shares a training
    assert kinds["train"].seconds


def test_a_layer_that_no_model_has_is_refused_before_the_work(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(rows={"grid": {"method": "grid"}, "deep": {"method": "fastv:layer=99"}}, reference="grid")
    with pytest.raises(ValueError, match="^rows.deep.method=fastv:layer=99: layer 99: choose one from 0"):
        plan(asked, shop(tiny, tmp_path))


def test_searched_masks_are_the_head_room(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(
        match="tokens", losses=True, reference="searched", paper=None, search={"evaluations": 12},
        rows={"searched": {"searched": "own"}, "grid": {"method": "grid"}, "FastV": {"method": "fastv"}},
    )  # fmt: skip
    planned = plan(asked, shop(tiny, tmp_path))
    worked(planned)
    assert planned.losses is not None
    losses = planned.losses.read()
    labels = planned.searched[0].labels[16, "gqa"].labels()
    assert losses["searched", 16]["gqa"] == pytest.approx([one.loss_after for one in labels], abs=1e-5)
    assert losses["none", 144]["gqa"] == pytest.approx([one.loss_full for one in labels], abs=1e-5)
    kept = planned.searched[0].cells()["searched", 0][16, "gqa"].outcome
    assert kept is not None and kept.kept == tuple(one.kept for one in labels)
    images = {"gqa": list("abc")}
    lines = headroom(losses, "searched", ["none", "searched", "grid", "FastV"], images)
    assert [line["row"] for line in lines] == ["none", "searched", "grid", "FastV"]
    with pytest.raises(ValueError, match="match: tokens"):
        plan(recipe(rows={"a": {"searched": "own"}}, reference=None), shop(tiny, tmp_path))


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (shade, 0, 0))


def test_partners_share_the_image() -> None:
    asked = [Sample(str(i), picture(shade), "q", ("a",)) for i, shade in enumerate((1, 2, 1, 2, 1))]
    assert partners(asked) == [2, 3, 4, 1, 0]
    with pytest.raises(ValueError, match="sample 5 is alone"):
        partners([*asked, Sample("5", picture(9), "q", ("a",))])
    with pytest.raises(ValueError, match="sample first is alone"):
        partners([Sample("first", picture(9), "q", ("a",)), *asked])


def test_headroom_is_a_paired_difference() -> None:
    losses = {("best", 4): {"gqa": [1.0, 2.0, 3.0]}, ("worse", 4): {"gqa": [2.0, 3.0, 4.0]}}
    best, worse = headroom(losses, "best", ["best", "worse"], {"gqa": ["a", "a", "b"]})
    assert best["above"] is None
    assert worse["above"] == {"difference": 1.0, "low": 1.0, "high": 1.0}
    losses["varied", 4] = {"gqa": [2.0, 5.0, 3.5]}
    images = list("aab")  # questions about one image are drawn together
    (varied,) = headroom(losses, "best", ["varied"], {"gqa": images})
    assert varied["above"] == asdict(mean_interval(np.array([1.0, 3.0, 0.5]), images))


def test_losses_are_measured_for_the_first_seed_and_for_real_tokens_alone(make_outcome: Any) -> None:
    """Of three rows one has two seeds, and one keeps a token that stands for the whole image."""
    kept = {("row", 1): (1, 2), ("row", 0): (3, 4), ("whole", 0): (3, -1), ("more", 0): (3, 4, 5)}
    made = {place: make_outcome("gqa", [1.0], kept=tokens) for place, tokens in kept.items()}
    cells = {
        place: {(2, "gqa"): Cell(CellKey(place[0], 2, "gqa"), {}, {}, one)} for place, one in made.items()
    }
    step: Any = SimpleNamespace(
        answers=SimpleNamespace(cells=lambda: cells), others=(), model="micro",
        shop=SimpleNamespace(load=lambda name: SimpleNamespace(visual_tokens=16)),
    )  # fmt: skip
    assert LossesStep._kept(step) == {("row", 2, "gqa"): ((3, 4),)}


def test_scenes_are_asked_several_questions_and_count_as_one() -> None:
    task = Scenes()
    samples = task.micro(12)
    assert len(samples) == 12 and len({one.picture_digest for one in samples}) == 3
    assert len({one.question for one in samples[:4]}) == 4
    said = [one.answers[0] for one in samples[:6]] + ["?"] * 6
    assert task.statistics(samples, said).tolist() == [[4, 4], [2, 4], [0, 4]]
    assert task.credit(samples, said).tolist() == [1.0, 0.5, 0.0]
    assert task.score(samples, said) == 50.0
    assert [one.id for one in task.micro(4)] == [one.id for one in samples[:4]]


def test_another_questions_mask_is_kept_for_the_same_image(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(
        match="tokens", tasks=["scenes"], n=4, paper=None, reference="own", search={"evaluations": 12},
        rows={"own": {"searched": "own"}, "other": {"searched": "other"}},
    )  # fmt: skip
    planned = plan(asked, shop(tiny, tmp_path))
    worked(planned)
    own, other = (one.cells()[one.row, 0][16, "scenes"].outcome for one in planned.searched)
    assert own and other and other.kept == (*own.kept[1:], own.kept[0])


def test_indices_and_compressors_come_from_the_source(
    tiny: MLLM, tiny_wide: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "family_of", {"wide": "llava"}.__getitem__)
    rows = {"indices": {"source_gives": "indices"}, "compressor": {"source_gives": "compressor"}, "own": {}}
    asked = recipe(model="wide", source="micro", rows=rows, reference="own", paper=None)
    planned = plan(asked, shop(tiny, tmp_path, wide=tiny_wide))
    assert [planned.stores[row, 0].name for row in rows] == ["micro", "micro", "wide"]
    worked(planned)
    found = {row: listed[16, "gqa"] for (row, _), listed in planned.answers.cells().items() if row in rows}
    assert found["indices"].method["indices from"].startswith(tiny.name)
    assert "transferred" in found["compressor"].method["choices"][0]
    assert found["own"].method["choices"] == []


def test_the_first_image_with_enough_questions_is_drawn_else_the_one_with_most() -> None:
    images = [Image.new("L", (side, 1)) for side in (1, 2, 3)]
    asked = [Sample(str(number), images[at], "?", ()) for number, at in enumerate((0, 1, 2, 1, 2, 2))]
    assert [one.id for one in about_one_image(asked, 2)] == ["1", "3"]
    assert [one.id for one in about_one_image(asked, 5)] == ["2", "4", "5"]


def test_pictures_are_drawn(tiny: MLLM, tmp_path: Path) -> None:
    groups = {"what": "groups", "samples": 2, "groupers": ["vocabulary", "grid"]}
    asked = recipe(rows={}, reference=None, paper=None, draw=groups, search={"evaluations": 12})
    folder = worked(plan(asked, shop(tiny, tmp_path))) / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == ["groups-gqa-0.png", "groups-gqa-1.png"]
    kept = recipe(rows={"grid": {"method": "grid"}}, reference=None, draw={"what": "kept", "samples": 1})
    folder = worked(plan(kept, shop(tiny, tmp_path))) / "pictures"
    single = Image.open(folder / "kept-gqa-0.png")
    assert single.width > single.height
    row = {"grid": {"method": "grid"}}
    asked = recipe(
        tasks=["pope"], n=6, rows=row, reference=None, paper=None,
        draw={"what": "questions", "task": "pope", "samples": 2},
    )  # fmt: skip
    folder = worked(plan(asked, shop(tiny, tmp_path))) / "pictures"
    sheet = Image.open(folder / "questions-pope.png")
    assert sheet.height > single.height  # a row per question
    with pytest.raises(ValueError, match="choose one of the recipe's gqa"):
        plan(recipe(rows={}, reference=None, draw={**groups, "task": "pope"}), shop(tiny, tmp_path))


def test_names_of_rows_are_text_in_markdown(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"a|b <b>*x*": {"method": "grid"}, "x [c](d) `e`": {"method": "grid"}}
    asked = recipe(title="# t <i>", rows=rows, reference=None, paper=None)
    page = (worked(plan(asked, shop(tiny, tmp_path))) / "table.md").read_text().splitlines()
    assert page[0] == r"# # t \<i\>"
    assert any(line.startswith(r"| a\|b \<b\>\*x\* | ") for line in page)
    assert any(line.startswith(r"| x [c]\(d) \`e\` | ") for line in page)


def test_a_method_with_options_selects(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"plus": {"selects": "evocomp+:sharpness=2"}}
    planned = plan(recipe(rows=rows, reference=None, paper=None), shop(tiny, tmp_path))
    assert worked(planned) and planned.answers.candidates[0].make().sharpness == 2


def test_workers_beside_a_gpu_are_refused_before_any_work(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny.model), "device", property(lambda self: torch.device("cuda")))
    with pytest.raises(ValueError, match="workers=2: choose 1"):
        plan(recipe(), replace(shop(tiny, tmp_path), workers=2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"EvoComp@0": {}}, "reference": None}, "rows.EvoComp@0: a timing finds a row by its name"),
        ({"rows": {"evocomp": {"depth": 2}}, "reference": None}, "without depth"),
        ({"rows": {"grid": {"method": "grid"}}, "reference": None}, "a timing needs a row that learns"),
        (
            {"rows": {"evocomp": {}}, "reference": None, "seeds": [0, 1]},
            "one compressor per row: give one seed",
        ),
        ({"rows": {"evocomp": {}}, "reference": None, "match": "flops"}, "match: equivalent or tokens"),
    ],
)
def test_a_timing_that_would_be_of_something_else_is_refused(
    changes: dict[str, Any], said: str, tiny: MLLM, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        plan(recipe(paper=None, latency={}, **changes), shop(tiny, tmp_path))


def test_every_learned_row_is_timed_with_its_own_compressor(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"evocomp": {}, "evocomp+": {"selects": "evocomp+", "train": {"loss": "ce"}}}
    asked = recipe(paper=None, reference=None, rows=rows, latency={"repetitions": 2})
    planned = plan(asked, shop(tiny, tmp_path))
    worked(planned)
    (step,) = planned.timed
    told = json.loads((step.folder / "results.json").read_text())
    folders = {row: str(planned.trains[row, 0].folder) for row in rows}
    assert told["facts"]["compressor"] == folders and len(set(folders.values())) == 2
    timed = json.loads((step.folder / "rounds.json").read_text())["methods"]
    for row, folder in folders.items():
        assert timed[row]["compressor"] == of_method(selector_for(row, "micro", folder))["compressor"]


def test_the_phone_protocol_takes_evocomp_alone(tiny: MLLM, tmp_path: Path) -> None:
    rows = {"evocomp": {}, "evocomp+": {"selects": "evocomp+"}}
    with pytest.raises(ValueError, match="times the row evocomp and no other"):
        plan(recipe(paper=None, rows=rows, reference=None, edge={"runtime": "ort"}), shop(tiny, tmp_path))


@pytest.fixture(scope="module")
def shipped_shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    models = cache(load)
    return Workspace(tmp_path_factory.mktemp("runs"), models, cache(lambda name: models(name).fingerprint()))


@pytest.mark.parametrize("name", sorted(schema.known()))
def test_every_shipped_recipe_can_be_planned(name: str, shipped_shop: Workspace) -> None:
    asked = schema.read(name, ["n=2"])
    if asked.edge:
        pytest.importorskip("onnxruntime")
    planned = plan(asked, shipped_shop)
    assert planned.folder.name.startswith(f"{name}-")


def test_an_unknown_runtime_is_refused_before_any_work(tiny: MLLM, tmp_path: Path) -> None:
    asked = recipe(paper=None, rows={"evocomp": {}}, reference=None, edge={"runtime": "otr"})
    with pytest.raises(ValueError, match="unknown runtime 'otr'; did you mean 'ort'"):
        plan(asked, shop(tiny, tmp_path))


SMALL: Sequence[object] = (
    "--set", "n=2", "--set", "tasks=[gqa]", "--set", "learns.samples=2", "--set", "learns.train.epochs=1",
    "--set", "learns.labels.evaluations=12",
)  # fmt: skip


def test_the_command_prints_a_plan_and_does_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    asked = ("run", "figure6", "--only", "EvoComp", "--model", tiny_folder, "--out", tmp_path, *SMALL)
    told = command(*asked, "--dry-run")
    assert told.exit_code == 0, told.stderr
    assert "3 steps, 0 done" in told.stdout and not list(tmp_path.iterdir())
    lines = json.loads(command(*asked, "--dry-run", "--json").stdout)
    assert [line["title"].partition(":")[0] for line in lines] == ["label", "train", "answer"]


def test_a_model_that_does_not_ship_is_trained_as_in_the_paper(tiny_folder: Path, tmp_path: Path) -> None:
    """Full size: nothing of the miniature's settings, and embeddings on disk; --dry-run says so."""
    small = [*SMALL[:2], "--set", "n=3", "--out", tmp_path, "--dry-run"]
    told = command("run", "table1", "--model", tiny_folder, *small)
    assert told.exit_code == 0, told.stderr
    assert "trains: 30 epochs, batch 256, lr 0.003, ghm+cos, lambda 1, 100 regions" in told.stdout
    assert "(the paper's for llava-1.5-7b)" in told.stdout and "features on disk in --out" in told.stdout
    told = command("run", "table1", "--model", tiny_folder, *small, "--set", "learns.train.batch=8")
    assert "batch 8, " in told.stdout and "llava-1.5-7b but for batch)" in told.stdout
    told = command("run", "table1", *small)
    assert "trains: 8 epochs, batch 16" in told.stdout and "(the miniature's settings)" in told.stdout
    assert "in memory" in told.stdout and not list(tmp_path.iterdir())


def test_regions_and_batches_are_those_of_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, bins, batch in (("llava", 100, 256), ("llava_next", 150, 32), ("qwen2_5_vl", 150, 48)):
        monkeypatch.setattr(schema, "family_of", {"owner/model": family}.__getitem__)
        schema.published.cache_clear()
        told = schema.read("table1", model="owner/model").rows["EvoComp@0"].learns
        assert told and (told.train.bins, told.train.batch, told.train.epochs) == (bins, batch, 30)
    schema.published.cache_clear()


def test_the_real_textvqa_chooses_the_epoch_of_a_model_that_does_not_ship(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "family_of", {"full": "llava"}.__getitem__)
    asked, exam = [], TextVQA().micro(5, "val")

    def opened(names: Any, n: int, split: str, **options: Any) -> Any:
        asked.append((list(names), n, split, options["data"]))
        return {TextVQA(): exam}

    full = recipe(model="full", paper=None, validate=5)
    monkeypatch.setattr("bench.recipe.plan.load_tasks", opened)
    found = validation(replace(full, data=str(tmp_path)))
    assert found is None and not asked  # the folder has no TextVQA
    (tmp_path / "textvqa").mkdir()
    found = validation(replace(full, data=str(tmp_path)))
    assert asked == [(["textvqa"], 5, "val", str(tmp_path))] and found and found[1] == exam
    step = plan(full, shop(tiny, tmp_path, full=tiny)).trains["ce", 0]
    assert step.exam is None  # without --data
    examined = replace(step, exam=found)
    assert examined.digest != step.digest and "5 samples of textvqa" in examined.about
    given: dict[str, Any] = {}
    monkeypatch.setattr(training, "train", lambda *_, **options: given.update(options))
    monkeypatch.setattr(type(step.labels), "labels", lambda self: [])
    replace(examined, shop=replace(step.shop, features="disk")).work(lambda *_: None)
    assert given["features"] == "disk" and given["cache"] == step.shop.folder / "features"
    assert callable(given["validate"])


def test_a_recipe_that_only_draws_has_no_steps(tiny_folder: Path, tmp_path: Path) -> None:
    told = command("run", "figure2", "--model", tiny_folder, "--out", tmp_path, "--dry-run")
    assert (told.exit_code, told.stdout) == (0, "no steps: what there is to draw needs none\n"), told.stderr


def test_the_command_makes_a_row(tiny_folder: Path, tmp_path: Path) -> None:
    told = command("run", "figure6", "--only", "FastV", "--model", tiny_folder, "--out", tmp_path, *SMALL,
                "--set", "draw=null")  # fmt: skip
    assert told.exit_code == 0, told.stderr or told.exception
    assert "| FastV |" in told.stdout and "VisionZip" not in told.stdout


def test_the_command_refuses_in_one_line() -> None:
    told = command("run", "tabel5", "--dry-run")
    assert told.exit_code == 2 and told.stderr.startswith("evocomp: unknown recipe 'tabel5'; did you mean")


@pytest.mark.parametrize("given", [("--model", "micro-wid"), ("--set", "source=micro-wid")])
def test_an_unknown_model_is_refused_before_any_work(given: tuple[str, str], tmp_path: Path) -> None:
    told = command("run", "table3", *given, "--out", tmp_path)
    assert told.exit_code == 2 and told.stderr.startswith("evocomp: unknown model 'micro-wid'; did you mean")
    assert not list(tmp_path.iterdir())


def test_the_command_times_rows_beside_their_scores(tiny_folder: Path, tmp_path: Path) -> None:
    told = command("run", "figure4", "--only", "fastv", "--model", tiny_folder, "--out", tmp_path, *SMALL,
                "--set", "keep=[640]", "--set", "learns.train.bins=10",
                "--set", "latency.repetitions=2", "--set", "latency.clock=processor")  # fmt: skip
    assert told.exit_code == 0, told.stderr or told.exception
    assert "| evocomp | 32 | prefill with selection |" in told.stdout
    assert "(pictures/accuracy.png)" in told.stdout
    assert next(tmp_path.glob("figure4-*")).joinpath("pictures", "accuracy.png").is_file()


@pytest.mark.slow
def test_the_command_times_the_phone_protocol(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    told = command("run", "table4", "--model", tiny_folder, "--out", tmp_path, *SMALL, "--set", "keep=[64]",
                "--set", "edge.rounds=2", "--set", "edge.samples=1", "--set", "edge.threads=1")  # fmt: skip
    assert told.exit_code == 0, told.stderr or told.exception
    assert "| 16 | total |" in told.stdout
