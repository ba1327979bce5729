"""Every step is named after the settings that its result depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.recipe.plan import plan
from bench.recipe.schema import parse
from bench.recipe.steps import Workspace
from compress.models.loading import MLLM
from tests.bench.recipe.test_run import shop

TOLD: dict[str, Any] = {
    "title": "a test", "keep": [64], "of": 576, "tasks": ["scenes"], "n": 4, "match": "tokens",
    "search": {"evaluations": 12}, "losses": True, "latency": {}, "edge": {},
    "learns": {"samples": 4, "labels": {"evaluations": 12}, "train": {"epochs": 1, "batch": 4}},
    "rows": {"mask": {"searched": "own"}, "fastv": {"method": "fastv"}, "evocomp": {}},
}  # fmt: skip
LONGER = {"learns": {**TOLD["learns"], "train": {"epochs": 2, "batch": 4}}}


def digests(mllm: MLLM, folder: Path, **changes: Any) -> dict[str, str]:
    planned = plan(parse({**TOLD, **changes}, "test"), shop(mllm, folder))
    assert planned.losses is not None
    latency, edge = planned.timed
    found = dict(searched=planned.searched[0], losses=planned.losses, latency=latency, edge=edge)
    return {name: step.digest for name, step in found.items()}


@pytest.mark.parametrize(
    ("changes", "renamed"),
    [
        ({"title": "another"}, set()),
        ({"search": {"evaluations": 13}}, {"searched", "losses"}),
        ({"rows": {**TOLD["rows"], "mask": {"searched": "other"}}}, {"searched", "losses"}),
        ({"n": 8}, {"searched", "losses"}),
        ({"keep": [128]}, {"searched", "losses", "latency", "edge"}),
        ({"rows": {**TOLD["rows"], "grid": {"method": "grid"}}}, {"losses", "latency", "edge"}),
        (LONGER, {"losses", "latency", "edge"}),
        ({"latency": {"repetitions": 5}}, {"latency"}),
        ({"latency": {"steps": 4}}, {"latency"}),
        ({"latency": {"clock": "processor"}}, {"latency"}),
        ({"edge": {"rounds": 7}}, {"edge"}),
        ({"edge": {"samples": 3}}, {"edge"}),
        ({"edge": {"threads": 1}}, {"edge"}),
    ],
    ids=lambda one: ",".join(sorted(one)),
)
def test_a_changed_setting_renames_the_steps_that_depend_on_it(
    tiny: MLLM, tmp_path: Path, changes: dict[str, Any], renamed: set[str]
) -> None:
    before, after = digests(tiny, tmp_path), digests(tiny, tmp_path, **changes)
    assert {name for name in before if before[name] != after[name]} == renamed


def test_what_else_times_depend_on_renames_them(tiny: MLLM, tmp_path: Path) -> None:
    rows = {name: row for name, row in TOLD["rows"].items() if name != "mask"}
    told = {**TOLD, "rows": rows, "losses": False}

    def timed(place: Workspace, **changes: Any) -> set[str]:
        return {step.digest for step in plan(parse({**told, **changes}, "test"), place).timed}

    here = shop(tiny, tmp_path)
    before = timed(here)
    assert len(before) == 2 and before == timed(replace(here, workers=2, batch=3))
    for other in (
        timed(here, match="equivalent"),
        timed(replace(here, anyres="fixed")),
        timed(replace(here, fingerprint=lambda name: "another model")),
    ):
        assert not before & other
