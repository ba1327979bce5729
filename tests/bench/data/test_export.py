"""The miniatures written in the big benchmarks' files come back through the loaders as what they were."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from baselines.grid import Grid
from bench.data.export import FileLayout, export
from bench.data.lmms_lab import LMMS_LAB
from bench.data.official import OFFICIAL
from bench.evaluation.evaluate import evaluate
from bench.tasks import TASKS
from bench.tasks.load import load_tasks
from compress.models.loading import MODELS, load
from compress.samples import Sample
from compress.video import Video

FILED = [name for name, task in TASKS.items() if task.splits]  # the others are there in miniature only
N = 12
LAYOUTS = ("official", "lmms-lab")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    for layout in LAYOUTS:
        export(root / layout, FILED, N, layout)  # type: ignore[arg-type]
    return {layout: root / layout for layout in LAYOUTS}


def test_tables_say_which_column_holds_pictures(folders: dict[str, Path]) -> None:
    """`datasets` reads it from the schema, as lmms-lab's files have it, and hands out images, not bytes."""
    datasets = pytest.importorskip("datasets")
    file = str(folders["lmms-lab"] / "pope" / "data" / "test-00000-of-00001.parquet")
    rows = datasets.Dataset.from_parquet(file, cache_dir=str(folders["lmms-lab"] / "cache"))
    assert len(rows) == N and rows[0]["image"].size == (96, 96)


def content(sample: Sample) -> tuple[Any, ...]:
    shown = sample.visual
    frames = shown.frames if isinstance(shown, Video) else (shown,)
    times = shown.times if isinstance(shown, Video) else ()
    return sample.question, sample.answers, times, shown.size, [frame.tobytes() for frame in frames]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FILED)
def test_the_same_samples_come_back(name: str, layout: str, folders: dict[str, Path]) -> None:
    ((task, read),) = load_tasks([name], data=str(folders[layout])).items()
    made = TASKS[name]().micro(N, "test")
    assert task.protocol == "micro"
    assert sorted(map(content, read)) == sorted(map(content, made))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FILED)
def test_they_score_the_same(name: str, layout: str, folders: dict[str, Path]) -> None:
    """Whatever is said: right, wrong and useless answers in turn."""
    ((task, read),) = load_tasks([name], data=str(folders[layout])).items()
    made = {repr(content(s)): s for s in TASKS[name]().micro(N, "test")}
    paired = [made[repr(content(s))] for s in read]
    said = [(s.answers[0], "red", "", "A")[i % 4] for i, s in enumerate(read)]
    assert task.score(read, said) == TASKS[name]().score(paired, said)


@pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")
@pytest.mark.parametrize("name", ["pope", "mmbench", "vizwiz"])
def test_the_shipped_model_answers_and_scores_the_same(name: str, folders: dict[str, Path]) -> None:
    mllm = load("micro")
    made = {repr(content(s)): s for s in TASKS[name]().micro(N, "test")}
    direct: dict[str, str] = {}
    for layout in LAYOUTS:
        ((task, read),) = load_tasks([name], data=str(folders[layout])).items()
        found = evaluate(mllm, task, read, Grid(), 36)
        if not direct:
            samples = [made[repr(content(s))] for s in read]
            own = evaluate(mllm, TASKS[name](), samples, Grid(), 36)
            direct = dict(zip(map(repr, map(content, samples)), own.predictions, strict=True))
        assert dict(zip(map(repr, map(content, read)), found.predictions, strict=True)) == direct
        assert found.score == own.score


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
@pytest.mark.parametrize("name", FILED)
def test_the_real_protocols_read_them_too(name: str, protocol: str, folders: dict[str, Path]) -> None:
    ((task, samples),) = load_tasks([name], data=str(folders["official"]), protocol=protocol).items()
    bare = (name, protocol) == ("ocrbench", "lmms-eval")
    assert all(bare or s.question.count("\n") >= 1 for s in samples)
    said = [s.answers[0] for s in samples]
    if (name, protocol) != ("vqav2", "llava"):  # its humans say two, and the official tool hears 2
        assert task.score(samples, said) > 99.9
    assert set(task.headline) <= set(task.subscores(samples, said)) or name in ("vqav2", "gqa")


def test_nothing_is_overwritten(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="gqa exists: choose another folder"):
        export(folders["official"], ["gqa"], 2)


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    export(tmp_path, ["pope"], 6)
    export(tmp_path / "lab", ["pope"], 6, "lmms-lab")
    (tmp_path / "lab" / "pope" / "data").rename(tmp_path / "pope" / "data")
    with pytest.raises(ValueError, match="has both coco_pope_.*json and Parquet files: keep one layout"):
        load_tasks(["pope"], data=str(tmp_path))


@pytest.mark.parametrize("layout", ["official", "lmms-lab"])
def test_a_full_disk_leaves_nothing_half_written(
    layout: FileLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, samples: Sequence[Sample]) -> None:
        (folder / "half").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    writers: Any = OFFICIAL if layout == "official" else LMMS_LAB
    monkeypatch.setitem(writers, "pope", full)
    with pytest.raises(OSError, match="No space left on device.*pope"):
        export(tmp_path, ["gqa", "pope"], 3, layout)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert export(tmp_path, ["gqa", "pope"], 3, layout)


def test_tasks_may_be_added(tmp_path: Path) -> None:
    assert export(tmp_path, ["gqa"], 3) == {"gqa/testdev": 3}
    assert export(tmp_path, ["pope"], 6) == {"pope/test": 6}
    assert len(load_tasks(["gqa", "pope"], data=str(tmp_path))) == 2
