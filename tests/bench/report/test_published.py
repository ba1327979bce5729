"""Published scores stand beside measured ones only where model, split, budget and method are the same."""

from __future__ import annotations

from typing import Any

import pytest

from baselines import METHODS
from bench.evaluation.protocol import of_method
from bench.report.published import MeasuredRow, beside, method_of, publications
from bench.tasks import TASKS
from compress.keep import read_keep

MODEL = "llava-hf/llava-1.5-7b-hf"
FACTS = {
    "gqa: protocol": "llava", "gqa: split": "testdev", "pope: protocol": "llava", "pope: split": None,
    "vqav2: protocol": "llava", "vqav2: split": None,
    "textvqa: protocol": "lmms-eval", "textvqa: split": "val",
}  # fmt: skip


def row(spec: str, keep: Any, **options: Any) -> MeasuredRow:
    method = of_method(METHODS[spec](**options))
    return MeasuredRow(spec, method, read_keep(keep), dict(gqa=58.04, pope=80.0, vqav2=70.0, textvqa=50.0))


def test_what_is_known_is_of_methods_and_splits_of_this_package() -> None:
    known = publications()
    assert all(split in TASKS[task].splits for task, split in known.splits.items())
    for table in known.tables:
        assert "arXiv" in table.source
        assert all(name in METHODS for methods in table.retain.values() for name in methods)
        scores = [table.vanilla, *(one for methods in table.retain.values() for one in methods.values())]
        assert all(set(one) == set(table.vanilla) <= known.splits.keys() for one in scores)
        assert all(30 < value < 100 for one in scores for value in one.values())
    methods = {name for table in known.tables for methods in table.retain.values() for name in methods}
    assert {"divprune", "cdpruner", "vispruner", "scope", "holov", "vscan"} <= methods
    for name in methods:
        assert method_of(of_method(METHODS[name]())) == name


def test_measured_and_published_stand_side_by_side_with_the_source() -> None:
    rows = [row("divprune", 64), row("none", 576), row("holov", "1/3"), row("grid", 64)]
    table = beside(rows, MODEL, 576, FACTS)
    assert table and list(table.header) == ["row", "keep", "gqa", "pope", "source"]
    cells = [list(line) for line in table.rows]
    assert cells[0] == ["divprune", "64", "58.0 (57.5)", "80.0 (85.5)", "[1]"]
    assert [line[2] for line in cells if line[0] == "none"] == [
        "58.0 (61.9)", "58.0 (62.0)", "58.0 (61.9)", "58.0 (61.9)"
    ]  # fmt: skip
    assert cells[-1][:4] == ["holov", "1/3", "58.0 (59.0)", "80.0 (85.6)"]
    assert table.notes[1].startswith("[1] CDPruner, arXiv 2506.10967")


@pytest.mark.parametrize(
    ("measured", "model", "tokens", "facts"),
    [
        (row("divprune", 64), "micro", 144, FACTS),
        (row("divprune", 64), "llava-hf/llava-1.5-13b-hf", 576, FACTS),
        (row("divprune", 65), MODEL, 576, FACTS),
        (row("divprune", 64), MODEL, 576, {"gqa: protocol": "llava", "gqa: split": "val"}),
        (row("divprune", 64), MODEL, 576, {"gqa: protocol": "micro", "gqa: split": None}),
        (row("visionzip", 64, contextual=0.5), MODEL, 576, FACTS),
        (row("fastv", 64), MODEL, 576, FACTS),
    ],
)
def test_nothing_stands_beside_what_is_something_else(
    measured: MeasuredRow, model: str, tokens: int, facts: dict[str, Any]
) -> None:
    assert beside([measured], model, tokens, facts) is None
