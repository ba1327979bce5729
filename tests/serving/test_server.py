"""Whole servers: nothing changes unless it is asked for, settings of a server, and the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.evaluation.opening import open_image
from bench.serving.measure import measure
from bench.serving.run import Load
from compress.samples import Sample
from tests.serving.conftest import SETTINGS, WHY

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)

ASK = """
import json, sys
from vllm import LLM, SamplingParams
from bench.evaluation.opening import open_image

folder, overrides = sys.argv[1], json.loads(sys.argv[2])
engine = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=1024, hf_overrides=overrides)
prompt = "<s>user <image> what color is the star ? assistant"
requests = [{"prompt": prompt, "multi_modal_data": {"image": open_image(f"busy:{n}", 192)}} for n in range(2)]
found = engine.generate(requests, SamplingParams(temperature=0, max_tokens=4, logprobs=5), use_tqdm=False)
told = [
    [sorted((token, one.logprob) for token, one in step.items()) for step in each.outputs[0].logprobs]
    for each in found
]
print("FOUND" + json.dumps([told, [len(each.prompt_token_ids) for each in found]]))
"""


Done = subprocess.CompletedProcess


def asked(folder: str, overrides: dict[str, Any] | None = None, **variables: str) -> Done:
    environment = {**os.environ, **SETTINGS, **variables}
    return subprocess.run(
        [sys.executable, "-c", ASK, folder, json.dumps(overrides or {})],
        env=environment, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip


def found(done: Done) -> Any:
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    return json.loads(line.removeprefix("FOUND"))


def test_nothing_asked_for_is_stock_vllm_to_the_last_bit(busy_folder: str) -> None:
    stock = found(asked(busy_folder, VLLM_PLUGINS=""))
    assert found(asked(busy_folder)) == stock
    assert stock[1] == [576 + 9, 576 + 9]


def test_method_and_budget_of_the_server_are_logged_once(busy_folder: str) -> None:
    done = asked(busy_folder, {"evocomp": {"method": "farthest", "keep": 64}})
    assert found(done)[1] == [64 + 9, 64 + 9]
    assert (done.stdout + done.stderr).count("visual tokens are chosen by farthest at 64") == 1
    same = asked(busy_folder, EVOCOMP_METHOD="farthest", EVOCOMP_KEEP="1/9")
    assert found(same) == found(done)


def test_a_method_inside_the_decoder_is_refused_at_the_start(busy_folder: str) -> None:
    done = asked(busy_folder, EVOCOMP_METHOD="fastv", EVOCOMP_KEEP="64")
    assert done.returncode and "FastV acts inside the decoder, before layer 1" in done.stdout + done.stderr


def test_the_benchmark_starts_measures_and_stops_a_server(tmp_path: Path) -> None:
    sample = Sample("0", open_image("busy:0", 192), "what color is the star ?", ("red",))
    load = Load(users=(2,), rates=(20.0,), requests=2, rounds=1, new=3)
    options = ["--dtype=float32", "--enforce-eager", "--max-model-len=1024"]
    program = str(Path(sys.executable).with_name("vllm"))
    report = measure("evocomp+", [64], load, "busy", [sample], program=program, options=options)
    assert [row.prompt for row in report.rows] == [585, 73, 585, 73]
    assert all(row.requests > 0 and row.tokens > 0 for row in report.rows)


def test_the_choice_of_served_requests_is_timed() -> None:
    command = ["-m", "bench.serving.cost", "--methods", "divprune", "--keep", "64", "--together", "2"]
    done = subprocess.run(
        [sys.executable, *command, "--rounds", "1"],
        env={**os.environ, **SETTINGS}, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines() if "divprune" in line] == [
        ["divprune", "64", "2"]
    ]
