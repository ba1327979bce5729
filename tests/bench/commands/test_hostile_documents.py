"""Every kind of document that is read, changed in every place: one line that names the file, or nothing.

A kind is a writer of a sound document and its reader. Each key is removed and replaced by values of other
types; a reader may take a changed document only where the value does not matter to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig

from bench.data.instructions import INDEX, Index, digest
from bench.data.instructions import KEY as MANIFEST_KEY
from bench.edge.bundle import Bundle
from bench.evaluation import history
from bench.evaluation.cells import META, CellKey, Cells, read_cells
from bench.evaluation.evaluate import Outcome, Stage
from bench.evaluation.history import Times
from bench.evaluation.ledger import DecoderShape, Ledger
from bench.evaluation.lmms_eval_logs import LmmsEval
from bench.evaluation.origin import FILE, Origin
from bench.latency.report import read_accuracy
from bench.latency.rounds import read_rounds
from bench.recipe.measure import Latencies, Runtimes
from bench.recipe.oracle import read_losses
from bench.recipe.schema import read as read_recipe
from bench.recipe.steps import read_record
from bench.report.gallery import Panel, SampleImage, jpeg, read_gallery, save_gallery
from bench.report.inspection import curves
from bench.tasks.folder import MANIFEST, Manifest
from compress.compressor.network import CONFIG, WEIGHTS, Compressor
from compress.documents import read
from compress.labels import read_labels
from compress.labels.store import KEY, SCHEMA, Label, write_quarantine, writing
from compress.samples import Sample

VALUES: list[Any] = [
    None, [], [1, "a", None], {}, {"a": {"b": []}}, "", "x" * 5000, -1, 0.5, 10**30, True, float("nan"),
]  # fmt: skip
REMOVED = "removed"
DEEP = "[" * 100_000


@dataclass(frozen=True)
class Kind:
    """`path` names the file below a folder, `free` the fields whose value means nothing to the reader.

    Of each field every `stride`-th wrong value is tried, from another first one: slow readers have fewer.
    """

    path: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    get: Callable[[Path], Any]
    put: Callable[[Path, str], None]
    free: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    stride: int = 1


def places(told: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if where:
        yield where
    if isinstance(told, dict):
        for key, value in told.items():
            yield from places(value, (*where, key))
    elif isinstance(told, list) and told:
        yield from places(told[0], (*where, 0))


def variants(told: Any, kind: Kind) -> Iterator[tuple[str, bool, Any]]:
    """Name of the changed field, whether what is there now may be there, and the changed document."""
    for number, where in enumerate(places(told)):
        for value in [REMOVED, *VALUES][number % kind.stride :: kind.stride]:
            changed = deepcopy(told)
            place = changed
            for step in where[:-1]:
                place = place[step]
            before = place[where[-1]]
            if value == REMOVED:
                del place[where[-1]]
            else:
                place[where[-1]] = value
            name = ".".join(map(str, where))
            left_out = value == REMOVED and isinstance(place, list)
            left_out |= value in (REMOVED, None) and name in kind.optional
            ratio = where[-1] == "keep" and value == 0.5  # of each image's tokens
            yield name, left_out or ratio or alike(before, value), changed


def alike(before: object, value: object) -> bool:
    """Whether a value may stand where another stood, as far as its type tells."""
    if isinstance(before, float):
        return value in (0.5, 10**30)
    if isinstance(before, str):
        return isinstance(value, str) and value != REMOVED
    return before is value is True or (isinstance(before, list | dict) and value == type(before)())


def text_file(path: str) -> tuple[Callable[[Path], Any], Callable[[Path, str], None]]:
    return (
        lambda folder: json.loads((folder / path).read_text()),
        lambda folder, text: (folder / path).write_text(text) and None,
    )


def metadata(path: str, key: bytes) -> tuple[Callable[[Path], Any], Callable[[Path, str], None]]:
    def put(folder: Path, text: str) -> None:
        table = pq.read_table(folder / path)
        pq.write_table(table.replace_schema_metadata({key: text}), folder / path)

    return lambda folder: json.loads(pq.read_schema(folder / path).metadata[key]), put


SETTINGS = {
    "kind": "best",
    "keep": 2,
    "grouper": "grid",
    "strategy": None,
    "visual_tokens": 9,
    "model": "abc",
}


def labels(folder: Path) -> None:
    with writing(folder, SETTINGS) as writer:
        writer.run |= {"engine": "local", "workers": 1, "total": 1}
        writer.write([Label("a", (0, 3), 1.0, 1.0, 1.0, 1, 0, 0.0, (0.5,) * 9)], {"cpu"})


def read_store(folder: Path) -> None:
    store = read_labels(folder)
    store.runs(), store.labels
    for name in ("kind", "keep", "grouper", "strategy", "visual_tokens", "model"):
        store.setting(name)
    store.refuse_other("micro", "abc", 9)


def quarantine(folder: Path) -> None:
    labels(folder)
    write_quarantine(folder / "quarantine-labels.json", SETTINGS, {"b": ["why"]})


LLAMA = LlamaConfig(
    hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, vocab_size=8
)


def compressor(folder: Path) -> None:
    Compressor(LLAMA).save(folder, {"model": "micro"})


def manifest(folder: Path) -> None:
    (folder / "mix.json").write_text("[]")
    told = {
        "format": 1, "file": "mix.json", "sha256": digest(folder / "mix.json"),
        "left_out": {"text only": {"count": 1, "first": "record 3"}},
    }  # fmt: skip
    row = {"position": 0, "start": 1, "length": 9, "turns": [0], "source": "coco", "image": "a", "size": 5}
    table = pa.Table.from_pylist([row], INDEX).replace_schema_metadata({MANIFEST_KEY: json.dumps(told)})
    pq.write_table(table, folder / "a.manifest")


def origin(folder: Path) -> None:
    (folder / "loss.png").write_bytes(b"")
    Origin("one", {"python": "3"}, ["evocomp"], {"loss": str(folder / "loss.png")}, "a", "b").save(folder)


def cell(folder: Path) -> None:
    shape = DecoderShape(layers=1, hidden=4, intermediate=4, heads=1, kv_heads=1, head_dim=4, vocabulary=4)
    outcome = Outcome(
        task="gqa", samples=("a",), predictions=("red",), correct=(1.0,), kept=((0, 3),),
        path=((Stage(0, (0, 3), (3,)),),), credit=(1.0,), sums=((1.0, 2.0),), images=("i",), score=100.0,
        ledger=Ledger(shape, (2.0,), 5.0, (2.0,)), stages=(0,), seconds=1.0, subscores={"color": 1.0},
        batch=1, draws=(100.0,),
    )  # fmt: skip
    one = Sample("a", Image.new("RGB", (2, 2)), "what ?", ("red",), "gqa", "color")
    Cells(folder, {"model": "m"}, {"grid": {"class": "g"}}).add(CellKey("grid", 2, "gqa"), [one], outcome)
    (path,) = (folder / "cells").iterdir()
    path.rename(folder / "cells" / "a.parquet")


def pictures(folder: Path) -> None:
    shown = SampleImage(
        "a", "color", "what ?", ("red",), jpeg(Image.new("RGB", (4, 4))), (Panel(0, 2, 2, 2),)
    )
    save_gallery({"gqa": {"a": shown}}, folder)


def written(path: str, told: object) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text(json.dumps(told)) and None


OPTIONAL = ("subscores", "batch", "ledger.cached", "ledger.selection")
STEP = {"kind": "label", "title": "t", "facts": {}}
TIMES = {
    "runs": [{"command": "evocomp", "date": "d", "environment": {"python": "3"}}],
    "seconds": {"labels": 2.0},
    "work": [
        {
            "units": 1, "forwards": 2.0, "seconds": 1.0, "workers": 1, "model": "m", "device": "cpu",
            "date": "d", "environment": {"python": "3"},
        }
    ],
}  # fmt: skip
LOSSES = [{"row": "grid", "keep": 2, "task": "gqa", "losses": [0.5]}]
SHOT = dict.fromkeys(("vision", "selection", "prefill", "first", "step", "total"), 0.5) | {"memory": 5}
ROUNDS = {
    "format": 1, "facts": {"model": "m"}, "methods": {"grid": {"class": "g"}},
    "rounds": [[{"cell": ["grid", 2, "eager"], "shot": SHOT}]],
}  # fmt: skip
LATENCY = {"rows": [{"method": "evocomp", "keep": 2, "speedups": {"total": {"times": 2.0}}}]}
EDGE = {"runtimes": [{"runtime": "ort", "rows": [{"keep": 2, "speedup": 2.0}]}]}
BUNDLE = {
    "model": "micro", "weights": "abc", "files": "onnx", "precision": "W4A32KV8", "chunk": 8,
    "contexts": [64, 32], "tokens": 9, "text": 4, "reads_text": True, "layers": 2, "of_layers": 2,
    "kv_heads": 1, "head_dim": 4,
}  # fmt: skip


HARNESS = {
    "results": {"gqa": {"exact_match,none": 1.0}}, "higher_is_better": {"gqa": {"exact_match": True}},
    "configs": {"gqa": {"cluster_key": "a"}}, "model_name": "m", "model_source": "e", "git_hash": "b",
    "config": {"model": "m", "model_args": "a", "batch_size": "8"}, "lmms_eval_version": "0",
    "transformers_version": "5",
}  # fmt: skip


def harness(folder: Path) -> None:
    (folder / "1_results.json").write_text(json.dumps(HARNESS))
    (folder / "1_samples_gqa.jsonl").write_text('{"doc_id": 0, "exact_match": 1.0}')


RECIPE = {
    "title": "t", "keep": [64], "of": 576, "seeds": [0], "tasks": ["gqa"], "n": 5, "match": "tokens",
    "rows": {"grid": {"method": "grid"}, "own": {"depth": 2, "train": {"lr": 0.1, "epochs": 2}}},
    "learns": {"labels": {"kind": "best", "evaluations": 9}}, "draw": {"what": "kept", "samples": 1},
}  # fmt: skip


def recipe(folder: Path) -> None:
    (folder / "mine.yaml").write_text(json.dumps(RECIPE))


KINDS = {
    "labels": Kind(
        "labels-00000.parquet", labels, read_store, *metadata("labels-00000.parquet", KEY),
        free=("run", "settings.keep", "settings.kind", "settings.grouper", "settings.strategy"),
    ),
    "quarantine": Kind(
        "quarantine-labels.json", quarantine, read_labels, *text_file("quarantine-labels.json"),
        free=("format", "samples", "settings.strategy"),
    ),
    "compressor": Kind(
        CONFIG, compressor, Compressor.load, *text_file(CONFIG), stride=6,
        free=("llm", "info", "text", "format"),
    ),
    "manifest": Kind(
        "a.manifest", manifest, lambda folder: Index.load(folder / "a.manifest", folder / "mix.json"),
        *metadata("a.manifest", MANIFEST_KEY), free=("file", "left_out"),
    ),
    "origin": Kind(FILE, origin, Origin.read, *text_file(FILE), free=tuple(Origin.__dataclass_fields__)),
    "times": Kind(
        history.FILE, written(history.FILE, TIMES), Times.read, *text_file(history.FILE),
        free=("runs.0.command", "runs.0.date", "runs.0.environment.python", "work.0.model", "work.0.device",
              "work.0.date", "work.0.environment.python"),
        optional=("runs", "seconds", "work", "seconds.labels", "runs.0.date", "runs.0.environment",
                  "work.0.environment"),
    ),
    "cell": Kind(
        "cells/a.parquet", cell, read_cells, *metadata("cells/a.parquet", META), stride=3,
        free=("protocol", "method", "impossible", "outcome.stages.0"),
        optional=("outcome", *(f"outcome.{name}" for name in OPTIONAL)),
    ),
    "step": Kind(
        "step.json", written("step.json", STEP), lambda folder: read_record(folder / "step.json"),
        *text_file("step.json"), free=("kind", "title", "facts"),
    ),
    "losses": Kind(
        "losses.json", written("losses.json", LOSSES), lambda folder: read_losses(folder / "losses.json"),
        *text_file("losses.json"),
    ),
    "rounds": Kind(
        "rounds.json", written("rounds.json", ROUNDS), lambda folder: read_rounds(folder / "rounds.json"),
        *text_file("rounds.json"), free=("facts", "methods"),
        optional=("rounds.0.0.shot.step", "rounds.0.0.shot.memory"),
    ),
    "comparison": Kind(
        "results.json", written("results.json", {"summary": [{"method": "m", "keep": 2, "average": 50.0}]}),
        read_accuracy, *text_file("results.json"), optional=("summary.0.average",),
    ),
    "latency": Kind(
        "results.json", written("results.json", LATENCY),
        lambda folder: read(Latencies, folder / "results.json"), *text_file("results.json"),
        optional=("rows.0.speedups.total",),
    ),
    "edge": Kind(
        "edge.json", written("edge.json", EDGE), lambda folder: read(Runtimes, folder / "edge.json"),
        *text_file("edge.json"),
    ),
    "bundle": Kind("edge.json", written("edge.json", BUNDLE), Bundle.open, *text_file("edge.json")),
    "benchmarks": Kind(
        MANIFEST, written(MANIFEST, {"protocol": "micro", "sizes": {"pope/test": 3}}), Manifest.of,
        *text_file(MANIFEST), optional=("protocol", "sizes", "sizes.pope/test"),
    ),
    "lmms-eval": Kind(
        "1_results.json", harness, lambda folder: LmmsEval().read("m", folder), *text_file("1_results.json"),
        free=("results", "higher_is_better", "config"), optional=tuple(HARNESS),
    ),
    "recipe": Kind(
        "mine.yaml", recipe, lambda folder: read_recipe(str(folder / "mine.yaml")), *text_file("mine.yaml"),
        free=tuple(RECIPE), stride=3,
    ),
}  # fmt: skip


def one_line(problem: BaseException, name: str) -> None:
    said = str(problem)
    assert type(problem) is ValueError, repr(problem)[:300]
    assert name in said and "\n" not in said and len(said) < 700, said[:1000]


@pytest.mark.parametrize("name", KINDS)
def test_a_changed_document_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    kind.read(tmp_path)
    told = kind.get(tmp_path)
    accepted = []
    for where, fits, changed in variants(told, kind):
        kind.put(tmp_path, json.dumps(changed))
        try:
            kind.read(tmp_path)
            accepted += [] if fits else [where]
        except Exception as problem:
            one_line(problem, str(tmp_path))
    assert {where for where in accepted if not where.startswith(kind.free)} == set()
    if name == "origin":  # what is accepted are texts, numbers and what may be left out
        assert set(accepted) <= set(kind.free) | {"facts.python", "commands.0", "plots.loss"}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("content", ["", "null", "[]", "3", '"a"', "{", DEEP, "\x00"], ids=repr)
def test_another_document_is_refused_in_one_line(name: str, content: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    kind.put(tmp_path, content)
    with pytest.raises(ValueError) as caught:
        kind.read(tmp_path)
    one_line(caught.value, kind.path)


@pytest.mark.parametrize("name", KINDS)
def test_a_fifo_is_refused_before_it_is_opened(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    (tmp_path / kind.path).unlink()
    os.mkfifo(tmp_path / kind.path)
    with pytest.raises(ValueError, match="FIFO") as caught:
        kind.read(tmp_path)
    one_line(caught.value, kind.path)


def damaged(content: bytes) -> Iterator[bytes]:
    """Nothing, half of a file, what is cut at its end, and what is no UTF-8 in a text."""
    yield b""
    yield content[: len(content) // 2]
    yield content[:-2]
    yield content.replace(b'"', b'"\xe9', 1) if content[:1] in b"{[" else content[::-1]


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    for content in list(damaged((tmp_path / kind.path).read_bytes())):
        (tmp_path / kind.path).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            kind.read(tmp_path)
        one_line(caught.value, kind.path)


WRONG: dict[str, list[Any]] = {
    "picture": [b"", b"no picture"],
    "answers": [[None]],
    "panels": [[], [None], [{"start": -1, "rows": 2, "columns": 2, "stride": 2}],
               [{"start": 0, "rows": 0, "columns": 2, "stride": 2}],
               [{"start": 0, "rows": 2, "columns": 2, "stride": None}]],
}  # fmt: skip


def test_pictures_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    pictures(tmp_path)
    path = tmp_path / "samples" / "gqa.parquet"
    table = pq.read_table(path)
    for name, values in WRONG.items():
        for value in values:
            place = table.schema.get_field_index(name)
            field = table.schema.field(place)
            pq.write_table(table.set_column(place, field, pa.array([value], field.type)), path)
            with pytest.raises(ValueError) as caught:
                read_gallery(tmp_path)
            assert name in str(caught.value), one_line(caught.value, str(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kept", [None]), ("path", [None]), ("path", [{"depth": 0, "kept": [1, None], "merged": []}]),
        ("answers", [None]), ("correct", 1.5), ("correct", float("nan")),
    ],
)  # fmt: skip
def test_rows_of_a_cell_that_say_too_little_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    cell(tmp_path)
    path = tmp_path / "cells" / "a.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    pq.write_table(table.set_column(place, field, pa.array([value], field.type)), path)
    with pytest.raises(ValueError, match=f"{name}") as caught:
        read_cells(tmp_path)
    one_line(caught.value, str(path))
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(ValueError, match="a row per sample"):
        read_cells(tmp_path)


@pytest.mark.parametrize(
    "row", ["", "1,0.1,2,0.5", "1,0.1,2,0.5,1,9", "a,0.1,2,0.5,1", "1,0.1,nan,0.5,1", "1,0.1,2,inf,1"]
)
def test_curves_that_are_none_are_refused_in_one_line(row: str, tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text(f"epoch,rate,loss,score,seconds\n{row}\n")
    with pytest.raises(ValueError) as caught:
        curves(tmp_path)
    one_line(caught.value, "curves.csv")


def columns(schema: pa.Schema, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Tables with one column of another type, without it, or with nulls."""
    for place, field in enumerate(schema):
        yield field.name, table.remove_column(place)
        for value in ("a", 1, 0.5, b"a", [[1]], None):
            wrong = pa.array([value])
            if wrong.type != field.type:
                yield field.name, table.set_column(place, field.name, wrong)
        if field.name != "score":
            yield field.name, table.set_column(place, field, pa.array([None], field.type))


@pytest.mark.parametrize(("name", "schema"), [("labels", SCHEMA), ("manifest", INDEX)])
def test_columns_of_another_type_are_refused_in_one_line(
    name: str, schema: pa.Schema, tmp_path: Path
) -> None:
    kind = KINDS[name]
    kind.write(tmp_path)
    for column, changed in columns(schema, pq.read_table(tmp_path / kind.path)):
        pq.write_table(changed, tmp_path / kind.path)
        with pytest.raises(ValueError) as caught:
            kind.read(tmp_path)
        assert column, one_line(caught.value, kind.path)


@pytest.mark.parametrize("kept", [(), (3, 0), (0, 0), (-1, 2)])
def test_labels_that_name_no_tokens_in_order_are_refused(kept: tuple[int, ...], tmp_path: Path) -> None:
    with writing(tmp_path, SETTINGS) as writer:
        writer.write([Label("a", (1,), 1.0, 1.0, 1.0, 1, 0, 0.0), Label("b", kept, 1.0, 1.0, 1.0, 1, 0, 0.0)])
    with pytest.raises(ValueError, match="the column kept must list one token or more in ascending order"):
        list(read_labels(tmp_path))


OTHERS: list[dict[str, Any]] = [
    {"model_type": "clip"}, {"model_type": "bert"}, {"model_type": "t5"}, {"model_type": "mamba"},
    {"hidden_size": -16}, {"hidden_size": 10**9}, {"num_attention_heads": 0}, {"hidden_act": "no"},
    {"intermediate_size": 10**12}, {"num_attention_heads": 10**12}, {"rope_parameters": {"rope_type": "no"}},
    {"rms_norm_eps": "a"}, {"head_dim": -1},
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_a_compressor_of_another_decoder_is_refused_in_one_line(
    other: dict[str, Any], tmp_path: Path
) -> None:
    compressor(tmp_path)
    told = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(told | {"llm": told["llm"] | other}))
    with pytest.raises(ValueError) as caught:
        Compressor.load(tmp_path)
    one_line(caught.value, str(tmp_path))


@pytest.mark.parametrize(
    "change", [{"layers": 10**6}, {"layers": 2}, {"layers": True}, {"layers": 0}, {"norm": "yes"}], ids=str
)
def test_a_compressor_of_another_shape_is_refused_in_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    compressor(tmp_path)
    told = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(told | change))
    with pytest.raises(ValueError) as caught:
        Compressor.load(tmp_path)
    one_line(caught.value, str(tmp_path))


def test_attention_kernels_of_a_configuration_are_not_taken(tmp_path: Path) -> None:
    compressor(tmp_path)
    told = json.loads((tmp_path / CONFIG).read_text())
    told["llm"] |= {"_attn_implementation": "unknown/kernel", "num_hidden_layers": 10**6}
    (tmp_path / CONFIG).write_text(json.dumps(told))
    assert Compressor.load(tmp_path).config._attn_implementation != "unknown/kernel"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = Compressor(LLAMA)
    with torch.no_grad():
        made.head.weight[0, 0] = float("nan")
    made.save(tmp_path)
    with pytest.raises(ValueError, match=f"{WEIGHTS}: head.weight holds numbers that are not finite"):
        Compressor.load(tmp_path)
