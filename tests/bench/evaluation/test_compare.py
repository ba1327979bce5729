"""The grid: resumable cell by cell, the same for any number of workers, and honest about what cannot be."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.random import Random
from baselines.visionzip import VisionZip
from bench.evaluation import cellwork, history
from bench.evaluation.batches import Batches
from bench.evaluation.cells import META, CellKey, read_cells
from bench.evaluation.cellwork import CellPart, CellWork
from bench.evaluation.compare import Entry, compare
from bench.evaluation.comparison import Comparison
from bench.evaluation.evaluate import answer, evaluate, spend, whole_of
from bench.evaluation.history import Times
from bench.evaluation.ledger import DecoderShape, Ledger
from bench.evaluation.origin import Origin
from bench.report.forms import markdown
from bench.report.gallery import read_gallery
from bench.report.outputs import write
from bench.tasks import GQA, TASKS, Task
from bench.tasks.load import load_tasks
from compress.base import INPUT, Selection, Selector, View
from compress.keep import Ratio
from compress.models.loading import MLLM
from compress.samples import Sample

KEEPS = (40, 9)
ENTRIES = (Entry("grid", Grid()), Entry("random", Random()))
QUESTIONS = ("what color is the circle ?", "how many are there ?", "what is left ?")


class Asked(Task):
    """Questions that the tiny model can be asked; right are the answers that it gives."""

    name, metric, max_new_tokens = "asked", "accuracy", 2

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def data(tiny: MLLM, pictures: Sequence[Any]) -> dict[Task, list[Sample]]:
    asked = [(pictures[i % 4], QUESTIONS[i % 3]) for i in range(6)]
    task = Asked()
    answers = tiny.answer(*zip(*asked, strict=True), max_new_tokens=task.max_new_tokens)  # type: ignore[arg-type]
    made = [
        Sample(f"asked-{i}", image, question, (said,))
        for i, ((image, question), said) in enumerate(zip(asked, answers, strict=True))
    ]
    return {task: made}


def grid(mllm: MLLM, data: dict[Task, list[Sample]], folder: Path | None = None, **given: Any) -> Comparison:
    options: dict[str, Any] = {"difficulty": None, "batch": 4, **given}
    entries, keeps = options.pop("entries", ENTRIES), options.pop("keeps", KEEPS)
    return compare(mllm, entries, keeps, data, folder=folder, **options)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """Method and budget of every cell that is really computed."""
    made: list[tuple[str, int | None]] = []
    call = CellWork.__call__

    def noted(self: CellWork, part: CellPart) -> Any:
        if part.draw == part.start == 0:
            selector = self.settings.entries[part.key.method].selector
            made.append((type(selector).__name__, part.key.keep))
        return call(self, part)

    monkeypatch.setattr(CellWork, "__call__", noted)
    return made


# The grid ---------------------------------------------------------------------------------------------------


def test_vanilla_is_first_and_rows_are_ranked_inside_a_budget(tiny: MLLM, data: Any) -> None:
    found = grid(tiny, data)
    first, *rest = found.rows
    assert (first.method, first.keep, first.average, first.flops, first.untouched) == (
        "none",
        144,
        100,
        100,
        True,
    )
    assert [row.keep for row in rest] == [40, 40, 9, 9]
    for one, other in zip(rest[::2], rest[1::2], strict=True):
        assert one.average >= other.average  # type: ignore[operator]
    assert [row.tokens for row in rest] == [row.left for row in rest] == [40, 40, 9, 9]
    assert all(row.flops is not None and row.flops < 40 for row in rest)


def test_a_cell_is_what_evaluate_says(tiny: MLLM, data: Any) -> None:
    ((task, samples),) = data.items()
    alone = evaluate(tiny, task, samples, Random(), 9, batch=4)
    cell = grid(tiny, data).outcomes["random", 9, "asked"]
    assert alone == cell
    assert alone.correct == tuple(task.correct(s, p) for s, p in zip(samples, alone.predictions, strict=True))
    assert alone.stages == (INPUT,)


def test_a_method_that_draws_is_the_mean_over_its_draws(tiny: MLLM, data: Any) -> None:
    ((task, samples),) = data.items()
    mean = evaluate(tiny, task, samples, Random(seed=2, draws=3), 9, batch=4)
    each = [evaluate(tiny, task, samples, Random(seed=seed, draws=1), 9, batch=4) for seed in (2, 3, 4)]
    assert len({one.predictions for one in each}) == 3
    assert mean.draws == tuple(one.score for one in each)
    assert mean.score == pytest.approx(fmean(one.score for one in each))
    assert mean.credit == pytest.approx(
        [fmean(credits) for credits in zip(*(o.credit for o in each), strict=True)]
    )
    assert (mean.predictions, mean.kept) == (each[0].predictions, each[0].kept)
    assert mean.subscores == pytest.approx(
        {name: fmean(one.subscores[name] for one in each) for name in each[0].subscores}
    )
    assert each[0].draws == (each[0].score,)
    with pytest.raises(ValueError, match="draws=0: choose between 1 and 1000"):
        Random(draws=0)


def test_every_row_is_held_against_vanilla_and_the_reference(tiny: MLLM, data: Any) -> None:
    for row in grid(tiny, data, reference="random").rows[1:]:
        assert row.vanilla and row.vanilla.rival == "none" and row.vanilla.gap
        assert row.vanilla.gap.difference == pytest.approx(row.average - 100)  # type: ignore[operator]
        assert (row.reference is None) == (row.method == "random")
        assert not row.reference or row.reference.rival == "random"


def test_results_do_not_depend_on_workers(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    alone, together = grid(tiny, data), grid(tiny, data, tmp_path, workers=2)
    assert alone == together
    assert list(alone.outcomes) == list(together.outcomes)


def test_positions_can_be_the_same_for_all(tiny: MLLM, data: Any) -> None:
    own, compact = (grid(tiny, data, positions=choice) for choice in (None, "compact"))
    keys = [("grid", keep, "asked") for keep in KEEPS]
    assert [own.outcomes[key].predictions for key in keys] != [
        compact.outcomes[key].predictions for key in keys
    ]


def test_nothing_to_compare_is_refused(tiny: MLLM, data: Any) -> None:
    for empty in ({"entries": ()}, {"keeps": ()}):
        with pytest.raises(ValueError, match="at least one method, one budget and one task"):
            grid(tiny, data, **empty)
    with pytest.raises(ValueError, match="keep=145: choose between 1 and the 144"):
        grid(tiny, data, keeps=(40, 145))
    for name in ("grid", "none"):
        with pytest.raises(ValueError, match=f"'{name}' names two rows"):
            grid(tiny, data, entries=(*ENTRIES, Entry(name, FastV())))
    with pytest.raises(ValueError, match="workers=0: choose 1 or more"):
        grid(tiny, data, workers=0)


def test_a_budget_that_is_named_twice_is_measured_once(
    tiny: MLLM, data: Any, calls: list[tuple[str, int | None]]
) -> None:
    found = grid(tiny, data, keeps=(9, "9"), entries=ENTRIES[:1])
    assert [row.keep for row in found.rows] == [144, 9]
    assert calls == [("KeepAll", 144), ("Grid", 9)]


# Resuming ---------------------------------------------------------------------------------------------------


def test_a_finished_cell_is_never_computed_again(
    tiny: MLLM, data: Any, tmp_path: Path, calls: list[tuple[str, int | None]]
) -> None:
    first = grid(tiny, data, tmp_path)
    assert len(calls) == 5
    seen: list[tuple[int, int]] = []
    assert grid(tiny, data, tmp_path, progress=lambda *at: seen.append(at)) == first
    assert (len(calls), seen) == (5, [(5, 5)])
    wider = grid(tiny, data, tmp_path, keeps=(40, 9, 3))
    assert calls[5:] == [("Grid", 3), ("Random", 3)]
    assert wider == grid(tiny, data, keeps=(40, 9, 3))


def test_an_interrupted_grid_resumes_to_the_same_comparison(
    tiny: MLLM, data: Any, tmp_path: Path, calls: list[tuple[str, int | None]]
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid(tiny, data, tmp_path, progress=interrupt)
    assert len(read_cells(tmp_path)) == len(calls) == 3
    resumed = grid(tiny, data, tmp_path)
    assert len(calls) == 5
    assert resumed == grid(tiny, data)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_grid_resumes_to_the_same_comparison(
    tiny: MLLM, data: Any, tmp_path: Path, workers: int
) -> None:
    def run() -> None:
        def kill(done: int, total: int) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        grid(tiny, data, tmp_path, workers=workers, progress=kill)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(read_cells(tmp_path)) == 2
    (tmp_path / "cells" / "asked-9-grid-00000000.parquet.part").write_bytes(b"half a cell")
    assert grid(tiny, data, tmp_path) == grid(tiny, data)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_was_stopped_at_many_moments_ends_identical_byte_for_byte(
    tiny: MLLM, data: Any, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellwork, "PART", 1)  # a batch of four, and one of the other two

    def run(folder: Path) -> None:
        found = grid(tiny, data, folder, workers=workers, entries=(*ENTRIES, Entry("third", Third())))
        write(found, tiny, folder, Origin("a test", {}, ["evocomp compare"]))

    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    run(undisturbed)
    replacing, left = os.replace, 0

    def stopping(part: Path, target: Path) -> None:
        """Stops everything when so many files are written; half of the next lies there, as after SIGKILL."""
        nonlocal left
        if left == 0:
            halves[part] = Path(part).read_bytes()[:7]
            raise KeyboardInterrupt
        left -= 1
        replacing(part, target)

    stops = 0
    for moment in (0, 1, 2, 5, 9, 7, 1000):
        left, halves = moment, dict[Path, bytes]()
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(os, "replace", stopping)
            run(stopped)
            break
        stops += 1
        for part, half in halves.items():
            part.write_bytes(half)
    assert stops == 6
    there, here = files(undisturbed), files(stopped)
    assert there.keys() == here.keys()
    assert [name for name in there if there[name] != here[name]] in ([], [history.FILE])
    assert {"table.csv", "results.json", "run.json", "report.html", history.FILE} <= here.keys()
    cells = {Path(name).stem for name in here if name.startswith("cells/")}
    assert set(Times.read(stopped).seconds) == cells and len(cells) == 7
    assert Times.read(stopped).commands == ["evocomp compare"]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_cell_of_the_format_before_is_still_read(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    made = grid(tiny, data, tmp_path)
    for path in (tmp_path / "cells").iterdir():
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[META])
        meta["format"] = 3
        meta["outcome"]["seconds"] = 1.5
        pq.write_table(table.replace_schema_metadata({META: json.dumps(meta)}), path)
    assert grid(tiny, data, tmp_path) == made


def test_a_changed_setting_is_refused_and_named(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    ((task, samples),) = data.items()
    grid(tiny, data, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    changed: dict[str, dict[str, Any]] = {
        "batch is 4 there and 2 here": {"batch": 2},
        "match is 'equivalent' there and 'tokens' here": {"match": "tokens"},
        "positions is \"each method's own\" there and 'compact' here": {"positions": "compact"},
        "random: seed is 0 there and 7 here": {"entries": (Entry("random", Random(seed=7)),)},
    }
    for said, options in changed.items():
        with pytest.raises(ValueError, match="was made with other settings") as problem:
            grid(tiny, data, tmp_path, **options)
        assert said in str(problem.value)
    fewer = {task: samples[:5]}
    with pytest.raises(ValueError, match=r"asked: n is 6 there and 5 here; asked: samples is '\w+' there"):
        grid(tiny, fewer, tmp_path)
    with pytest.raises(ValueError, match="asked: version is 1 there and 2 here"):
        newer = type("Asked", (Asked,), {"version": 2})()
        grid(tiny, {newer: samples}, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cells").iterdir()} == before


def test_another_model_is_refused_and_cells_of_other_code_are_measured_again(
    tiny: MLLM, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid(tiny, data, tmp_path, keeps=(9,))
    before = content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(type(tiny), "fingerprint", lambda self: "other")
        with pytest.raises(ValueError, match="model is '.*' there and 'other' here"):
            grid(tiny, data, tmp_path)
    monkeypatch.setattr("bench.evaluation.protocol.fingerprint", lambda *starts: "changed")
    said: list[str] = []
    grid(tiny, data, tmp_path, keeps=(9,), say=said.append)
    assert said == [
        f"{tmp_path}: other code made {len(before)} cells; those of this table are measured again"
    ]
    assert all('"code": "changed"' in told for told in content(tmp_path).values())
    said.clear()
    grid(tiny, data, tmp_path, keeps=(9,), say=said.append)
    assert not said


def content(folder: Path) -> dict[str, str]:
    """What every cell says of itself."""
    return {path.name: pq.read_schema(path).metadata[META].decode() for path in (folder / "cells").iterdir()}


def test_a_broken_cell_is_named(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    grid(tiny, data, tmp_path, keeps=(9,))
    cell = next((tmp_path / "cells").glob("*grid*"))
    cell.write_bytes(cell.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{cell.name}: unreadable .* delete it to compute its cell again"):
        grid(tiny, data, tmp_path, keeps=(9,))
    cell.unlink()
    pq.write_table(pq.read_table(tmp_path / "cells").select(["sample"]), cell)
    with pytest.raises(ValueError, match="not a cell of a comparison"):
        grid(tiny, data, tmp_path, keeps=(9,))


def test_a_cell_comes_back_from_disk_as_it_was(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    found = grid(tiny, data, tmp_path)
    for cell in read_cells(tmp_path):
        assert cell.outcome == found.outcomes[cell.key]
        assert cell.protocol["asked: n"] == 6 and cell.method["class"] in ("KeepAll", "Grid", "Random")


def test_predictions_are_one_plain_table(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    ((task, samples),) = data.items()
    found = grid(tiny, data, tmp_path)
    rows = [row for row in pq.read_table(tmp_path / "cells").to_pylist() if row["method"] == "random"]
    assert len(rows) == 2 * len(samples)
    for row in rows:
        outcome = found.outcomes["random", row["keep"], "asked"]
        place = [s.id for s in samples].index(row["sample"])
        assert row["prediction"] == outcome.predictions[place]
        assert row["correct"] == task.correct(samples[place], row["prediction"])
        assert (row["question"], tuple(row["answers"])) == (samples[place].question, samples[place].answers)
        assert row["tokens"] == len(row["kept"]) == row["keep"]


# Budgets that cannot be had ---------------------------------------------------------------------------------


@dataclass
class Picky(Selector):
    """Refuses a budget when it sees the image, as methods do that need some tokens for themselves."""

    depth: int = INPUT

    def select(self, view: View, keep: int) -> Selection:
        if keep < 10:
            raise ValueError(f"picky keeps at least 10 tokens, not {keep}")
        return Grid().select(view, keep)


FASTV = Entry("fastv", FastV(layer=6))  # layer 1 of 6: an average below 25 is out of reach


def test_an_impossible_cell_does_not_stop_the_others(tiny: MLLM, data: Any, tmp_path: Path) -> None:
    found = grid(tiny, data, tmp_path, entries=(*ENTRIES, FASTV, Entry("picky", Picky())), reference="fastv")
    reasons = {place[:2]: why for place, why in found.impossible.items()}
    assert "the nearest budget is 25" in reasons.pop(("fastv", 9))
    assert reasons == {("picky", 9): "picky keeps at least 10 tokens, not 9"}
    empty = [row for row in found.rows if row.average is None]
    assert [(row.method, row.keep, row.scores) for row in empty] == [("fastv", 9, {}), ("picky", 9, {})]
    assert found.rows[-2:] == tuple(empty)
    stored = {cell.key: cell for cell in read_cells(tmp_path)}
    assert stored[CellKey("picky", 9, "asked")].impossible == reasons["picky", 9]
    assert stored[CellKey("picky", 9, "asked")].outcome is None


def test_a_grid_without_a_possible_cell_is_refused_before_the_work(
    tiny: MLLM, data: Any, tmp_path: Path, calls: list[tuple[str, int | None]]
) -> None:
    with pytest.raises(ValueError, match="keep=9 is out of reach.*; keep=8 is out of reach"):
        grid(tiny, data, tmp_path, entries=(FASTV,), keeps=(9, 8))
    assert calls == [] and list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="picky keeps at least 10"):
        grid(tiny, data, entries=(Entry("picky", Picky()),), keeps=(9,))


def test_what_stops_vanilla_stops_the_grid(tiny: MLLM, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(mllm: MLLM, task: Task, samples: Any, selector: Selector, keep: int, **options: Any) -> Any:
        if keep == 144:
            raise ValueError("image 3 is broken")
        return answer(mllm, task, samples, selector, keep, **options)

    monkeypatch.setattr(cellwork, "answer", failing)
    with pytest.raises(ValueError, match="image 3 is broken"):
        grid(tiny, data)


# What budgets equal -----------------------------------------------------------------------------------------


def test_flops_are_matched_with_the_choice_included(tiny: MLLM, data: Any) -> None:
    ((task, samples),) = data.items()
    found = grid(tiny, data, match="flops", entries=(*ENTRIES, FASTV), keeps=(60,), batch=6)
    shape = DecoderShape.of(tiny.decoder.config)
    text = found.outcomes["none", 144, "asked"].ledger.text
    target = Ledger(shape, [60] * 6, text).prefill_flops
    free, fastv = (found.outcomes[name, 60, "asked"].ledger for name in ("grid", "fastv"))
    assert free.prefill_flops == target
    assert fastv.selection > 0
    step = Ledger(shape, [61] * 6, text).prefill_flops - target
    assert abs(fastv.prefill_flops - target) < step
    assert abs(fastv.prefill_flops - fastv.selection - target) > 0
    left = found.outcomes["fastv", 60, "asked"].left
    assert spend(tiny, samples, FastV(layer=6), 60, "flops", Batches(6)) == (left, "tokens")


def test_tokens_are_those_that_are_left(tiny: MLLM, data: Any) -> None:
    found = grid(tiny, data, match="tokens", entries=(FASTV,), keeps=(9,))
    row = found.rows[-1]
    assert row.left == 9 and row.tokens == (144 + 5 * 9) / 6


@dataclass
class Third(Selector):
    """Keeps every third token, whatever it is asked for."""

    adaptive: bool = True
    depth: int = INPUT

    def select(self, view: View, keep: int) -> Selection:
        import torch

        return Selection(torch.arange(0, len(view.hidden), 3))


def test_an_adaptive_method_spends_what_it_likes_and_says_so(tiny: MLLM, data: Any) -> None:
    found = grid(tiny, data, entries=(*ENTRIES, Entry("third", Third())))
    rows = [row for row in found.rows if row.method == "third"]
    assert [(row.keep, row.tokens, row.left, row.adaptive) for row in rows] == [
        (40, 48, 48, True), (9, 48, 48, True),
    ]  # fmt: skip
    assert not any(row.adaptive for row in found.rows if row.method != "third")


# Other families of models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tiny_next", "tiny_qwen"])
def test_images_of_any_number_of_tokens_are_compared(
    family: str, data: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each image spends its own budget; a method that cannot work on a family has a reason in its cells."""
    mllm = request.getfixturevalue(family)
    ((_, samples),) = data.items()
    shapes = [(48, 48), (60, 30), (20, 70)]
    shown = [replace(s, picture=s.image.resize(shapes[i % 3])) for i, s in enumerate(samples)]
    entries = (Entry("random", Random()), Entry("fastv", FastV(layer=6)), Entry("visionzip", VisionZip()))
    given: dict[Task, list[Sample]] = {Asked(): shown}
    keep = mllm.visual_tokens // 3
    found = grid(mllm, given, tmp_path / "cells", entries=entries, keeps=(keep,))
    random, whole = (
        found.outcomes[name, count, "asked"] for name, count in (("random", keep), ("none", 3 * keep))
    )
    assert [len(one) for one in random.kept] == [min(keep, len(one)) for one in whole.kept]
    assert len({len(one) for one in whole.kept}) > 1
    assert abs(found.outcomes["fastv", keep, "asked"].tokens - random.tokens) <= 1
    assert (("visionzip", keep, "asked") in found.impossible) == (not mllm.clip_tower)
    write(found, mllm, tmp_path / "out", Origin("images of any size", {}))
    shown = read_gallery(tmp_path / "out")["asked"]
    assert [one.tokens for one in shown.values()] == [len(one) for one in whole.kept]
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("match", ["equivalent", "flops"])
def test_a_budget_is_solved_for_the_images_at_hand(match: Any, tiny_qwen: MLLM, data: Any) -> None:
    """Before layer 2 the largest image that the model takes could never be had for so few tokens."""
    ((task, samples),) = data.items()
    shown = [replace(s, picture=s.image.resize((44 + 28 * (i % 3), 44))) for i, s in enumerate(samples)]
    sizes = [tiny_qwen.tokens_of(one.image) for one in shown]
    inputs = tiny_qwen.prepare([one.image for one in shown], [one.question for one in shown])
    assert sizes == [len(picture) for picture in tiny_qwen.pictures(inputs)]
    early, late = FastV(layer=11), FastV(layer=27)  # scaled to depths 2 and 5
    keep = max(sizes) // 2
    assert tiny_qwen.visual_tokens * 2 / 6 > keep > max(sizes) * 2 / 6
    entries = (Entry("grid", Grid()), Entry("early", early), Entry("late", late))
    found = grid(tiny_qwen, {task: shown}, entries=entries, keeps=(keep,), match=match)
    outcome = found.outcomes["early", keep, "asked"]
    if match == "equivalent":
        assert abs(outcome.tokens - found.outcomes["grid", keep, "asked"].tokens) <= 0.5
    else:
        target = found.outcomes["grid", keep, "asked"].ledger.prefill_flops
        assert outcome.ledger.prefill_flops == pytest.approx(target, rel=0.05)
    why = found.impossible["late", keep, "asked"]
    on = max(sizes) if match == "equivalent" else round(sum(sizes) / len(sizes))
    assert f"keep={keep} is out of reach for FastV with match={match} on {on} visual tokens" in why


@pytest.mark.parametrize("match", ["equivalent", "flops"])
def test_a_ratio_is_of_each_image_in_every_file_and_heading(
    match: Any, tiny_qwen: MLLM, data: Any, tmp_path: Path
) -> None:
    ((task, samples),) = data.items()
    shown = [replace(s, picture=s.image.resize((44 + 28 * (i % 3), 44))) for i, s in enumerate(samples)]
    sizes = [tiny_qwen.tokens_of(one.image) for one in shown]
    given = {"entries": (Entry("grid", Grid()), Entry("fastv", FastV(layer=11))), "match": match}
    found = grid(tiny_qwen, {task: shown}, tmp_path, keeps=["1/2"], **given)
    half = Ratio("50%")
    assert [len(one) for one in found.outcomes["grid", half, "asked"].kept] == list(map(half.of, sizes))
    assert not found.impossible
    assert "50% of each image's visual tokens" in markdown(found)
    again = grid(tiny_qwen, {task: shown}, tmp_path, keeps=[half, 3], **given)
    assert again.outcomes["fastv", half, "asked"] == found.outcomes["fastv", half, "asked"]
    table = pq.read_table(tmp_path / "cells").to_pylist()
    rows = [row for row in table if row["method"] == "grid"]
    assert {(row["keep"], row["ratio"]) for row in rows} == {(None, "50%"), (3, None)}
    assert all(isinstance(cell.key.keep, int | Ratio) for cell in read_cells(tmp_path))
    write(found, tiny_qwen, tmp_path / "out", Origin("ratios", {}))
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["keep"] for row in told["rows"] if row["method"] == "fastv"} == {"50%"}


def test_tasks_are_loaded_by_name() -> None:
    (((task, samples),)) = load_tasks(["gqa"], 3).items()
    assert isinstance(task, GQA) and len(samples) == 3
    with pytest.raises(ValueError, match="n=0"):
        load_tasks(["gqa"], 0)


def test_the_whole_of_a_task_about_videos_is_that_of_its_first_video(tiny_qwen: MLLM):
    """The largest image says nothing of a video."""
    clips, gqa = TASKS["clips"](), TASKS["gqa"]()
    film = clips.micro(1)
    assert whole_of(tiny_qwen, {gqa: gqa.micro(1)}) == tiny_qwen.visual_tokens
    assert whole_of(tiny_qwen, {clips: film}) == tiny_qwen.tokens_of(film[0].visual_at(tiny_qwen.image_side))
