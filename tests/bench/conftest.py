"""Cells and comparisons made by hand, whose statistics are known."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import demo
from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.comparison import VANILLA, Comparison, ComparisonRow, Contrast, Group
from bench.evaluation.evaluate import Outcome, Stage
from bench.evaluation.ledger import DecoderShape, Ledger
from bench.evaluation.stats import Interval, Pairs
from bench.report import pictures
from bench.report.gallery import Gallery, Panel, SampleImage, jpeg
from compress.models import loading
from compress.models.loading import MLLM
from compress.samples import Sample

SHAPE = DecoderShape(layers=4, hidden=8, intermediate=16, heads=2, kv_heads=2, head_dim=4, vocabulary=20)
TOKENS, KEEPS, METHODS = 16, (4, 2), ("ours", "rival_1", "control")
AVERAGES = {"ours": 90.0, "rival_1": 80.0, "control": 70.0}
EVIL = """</script><script>alert(1)</script> & "quotes" <!-- ü"""  # the first question of each task

MakeOutcome = Callable[..., Outcome]
MakeGroup = Callable[..., Group]


def outcome(
    task: str, correct: Sequence[float], *, entering: Sequence[float] = (4, 4, 4, 4),
    said: Sequence[str] | None = None, kept: Sequence[int] = (0, 1, 2, 3),
    images: Sequence[str] | None = None,
) -> Outcome:  # fmt: skip
    """A run of a benchmark whose score is the mean credit; a sample is a unit with an image of its own."""
    credit = tuple(map(float, correct))
    return Outcome(
        task=task,
        samples=tuple(f"{task}-{number}" for number in range(len(credit))),
        predictions=tuple(said or ("right" if each else "wrong" for each in correct)),
        correct=credit,
        kept=(tuple(kept),) * len(credit),
        path=((Stage(0, tuple(kept)),) if len(kept) < TOKENS else (),) * len(credit),
        credit=credit,
        sums=tuple((each, 1.0) for each in credit),
        images=tuple(images or (f"{task} {number}" for number in range(len(credit)))),
        score=100 * sum(credit) / len(credit),
        ledger=Ledger(SHAPE, tuple(map(float, entering)), text=9.0),
        stages=(0,),
        seconds=1.0,
    )


def group(runs: Mapping[tuple[str, int], Mapping[str, Sequence[float] | str]], *, mark: str = "") -> Group:
    """Credits by (method, keep) and task; text in place of credits is why there are none."""
    cells = {}
    for (method, keep), tasks in runs.items():
        for task, told in tasks.items():
            key = CellKey(method, keep, task)
            whole = {"entering": [TOKENS] * 4, "kept": range(TOKENS)} if method == VANILLA else {}
            made = None if isinstance(told, str) else outcome(task, told, **whole)  # type: ignore[arg-type]
            cells[key] = Cell(
                key, {}, {"adaptive": method.startswith("own")}, made, told if made is None else ""
            )
    return Group(cells, TOKENS, mark)


def sample(task: str, number: int) -> Sample:
    rng = np.random.default_rng(number // 2)  # pairs share their image, as the rotations of MMBench do
    image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    question = EVIL if number == 0 else f"question {number} of {task} ?"
    answers = ("red",) if task == "gqa" else ("two",) * 8 + ("three",) * 2
    return Sample(f"{task}-{number}", image, question, answers, task=task, family="color")


def run(task: str, method: str, keep: int, samples: list[Sample]) -> Outcome:
    """Sample i is answered right by the first 1 + i % 3 methods; `ours` has a token for the whole image."""
    place = METHODS.index(method) if method in METHODS else 0
    right = [float(place <= i % 3) for i in range(len(samples))]
    said = [s.answers[0] if hit else "nothing" for s, hit in zip(samples, right, strict=True)]
    kept = (*range(5, 4 + keep), -1) if method == "ours" else tuple(range(keep))
    late = method == "control" and keep == 4
    entering = (16.0, 0.0, 0.0, 0.0) if late else (float(keep),) * 4
    return outcome(task, right, said=said, kept=kept, entering=entering)


def contrast(rival: str, gap: Interval, p: float) -> Contrast:
    """gqa differs as clearly as the average, vqav2 does not."""
    told, silent = Pairs(1, 9, p, p), Pairs(3, 3, 1.0, 1.0)
    return Contrast(rival, gap, p, p, told, {"gqa": told, "vqav2": silent})


def shown(one: Sample) -> SampleImage:
    return SampleImage(one.id, one.family, one.question, one.answers, jpeg(one.image), (Panel(0, 4, 4, 4),))


@pytest.fixture(scope="session")
def loaded() -> dict[tuple[Any, ...], MLLM]:
    """The shipped models that were loaded, by name and options."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def shipped_models_are_loaded_once(loaded: dict[tuple[Any, ...], MLLM]) -> Iterator[None]:
    """Commands share the shipped models: whoever attaches to a model leaves it as it was."""

    def load(name: str = "micro", **options: Any) -> MLLM:
        if name not in loading.MODELS:
            return read(name, **options)
        key = (name, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = read(name, **options)
        return loaded[key]

    read = loading.load
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loading, "load", load)
        yield


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a quarter of the pixels, which take less time to draw."""
    monkeypatch.setattr(pictures, "DPI", 80)


@pytest.fixture(scope="session")
def make_outcome() -> MakeOutcome:
    return outcome


@pytest.fixture(scope="session")
def make_group() -> MakeGroup:
    return group


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Three methods at two budgets on two benchmarks of thirty questions, with their statistics."""
    samples = {task: [sample(task, i) for i in range(30)] for task in ("gqa", "vqav2")}
    outcomes = {
        (method, keep, task): run(task, method, keep, listed)
        for task, listed in samples.items()
        for method, keep in [("none", TOKENS), *((m, k) for m in METHODS for k in KEEPS)]
    }
    scores = {"gqa": 88.84, "vqav2": 91.0}
    rows = [ComparisonRow("none", TOKENS, scores, 100.0, 16.0, 16.0, 100.0, untouched=True)]
    for keep in KEEPS:
        for method in METHODS:
            score = AVERAGES[method]
            gap = Interval(score - 90, score - 92.04, score - 88)
            rows.append(
                ComparisonRow(
                    method, keep, {"gqa": score + 0.25, "vqav2": score - 1}, score, keep, keep, 5.5 * keep,
                    vanilla=contrast("none", Interval(score - 100, score - 102, score - 98), 0.01),
                    reference=None if method == "ours" else contrast("ours", gap, 0.01),
                )
            )  # fmt: skip
    return Comparison(("gqa", "vqav2"), tuple(rows), outcomes, samples, reference="ours")


@pytest.fixture(scope="session")
def gallery(comparison: Comparison) -> Gallery:
    """Pictures of all samples of the comparison; all have sixteen tokens."""
    return {task: {one.id: shown(one) for one in listed} for task, listed in comparison.samples.items()}


@pytest.fixture
def little_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six shipped labels, short searches, one epoch, one budget and two benchmarks: the demo in little."""
    monkeypatch.setattr(demo, "BENCHMARKS", ("gqa", "pope"))
    read = demo.read_labels
    monkeypatch.setattr(demo, "read_labels", lambda folder: list(islice(read(folder), 6)))
    short = {
        name: replace(
            script, keeps=script.keeps[-1:],
            labels={kind: replace(one, evaluations=96) for kind, one in script.labels.items()},
            recipes={kind: replace(one, epochs=1) for kind, one in script.recipes.items()},
        )
        for name, script in demo.SCRIPTS.items()
    }  # fmt: skip
    monkeypatch.setattr(demo, "SCRIPTS", short)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A Chromium without a window; tests are skipped where playwright or a Chromium is missing."""
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as driver:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = [driver.chromium.executable_path, *filter(None, map(shutil.which, names))]
        program = next((one for one in found if Path(one).is_file()), None)
        if program is None:
            pytest.skip("no Chromium: playwright install chromium, or the system's package")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
