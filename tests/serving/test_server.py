"""Whole servers: nothing changes unless it is asked for, settings of a server, and the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.evaluation.compressors import selector_for
from bench.evaluation.opening import open_image
from bench.serving.export import servable
from bench.serving.measure import measure
from bench.serving.run import Load
from compress.attach.session import attach
from compress.models.conversation import Turn
from compress.models.loading import load
from compress.samples import Sample
from tests.serving.conftest import SETTINGS, WHY

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)

ASK = """
import json, sys
from vllm import LLM, SamplingParams
from bench.evaluation.opening import open_image

models, overrides = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for folder, scene, side, prompt in models:
    engine = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=1024, hf_overrides=overrides)
    images = [open_image(f"{scene}:{n}", side) for n in range(2)]
    requests = [{"prompt": prompt, "multi_modal_data": {"image": image}} for image in images]
    found = engine.generate(requests, SamplingParams(temperature=0, max_tokens=4, logprobs=5), use_tqdm=False)
    told = [
        [sorted((token, one.logprob) for token, one in step.items()) for step in each.outputs[0].logprobs]
        for each in found
    ]
    print("FOUND" + json.dumps([told, [len(each.prompt_token_ids) for each in found]]))
    del engine
"""


Done = subprocess.CompletedProcess
QUESTION = "what color is the star ?"


def model(name: str, folder: str) -> list[object]:
    """What the program is to ask of a shipped model that was written to a folder."""
    mllm = load(name)
    scene, side = ("busy" if name == "busy" else "micro"), mllm.image_side
    prompt = mllm.chat([Turn("user", QUESTION, [open_image(f"{scene}:0", side)])])
    return [folder, scene, side, prompt]


def asked(models: list[list[object]], overrides: dict[str, Any] | None = None, **variables: str) -> Done:
    environment = {**os.environ, **SETTINGS, **variables}
    return subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(models), json.dumps(overrides or {})],
        env=environment, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip


def found(done: Done) -> list[Any]:
    """Of each model, log-probabilities and the lengths of prompts."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    return [json.loads(line.removeprefix("FOUND")) for line in lines]


@pytest.fixture(scope="module")
def busy_asked(busy_folder: str) -> list[list[object]]:
    return [model("busy", busy_folder)]


def test_nothing_asked_for_is_stock_vllm_to_the_last_bit(
    busy_asked: list[list[object]], tmp_path: Path
) -> None:
    models = [*busy_asked, model("micro-qwen3", servable("micro-qwen3", tmp_path))]
    stock = found(asked(models, VLLM_PLUGINS=""))
    assert found(asked(models)) == stock
    assert [lengths for _, lengths in stock] == [[576 + 9] * 2, [144 + 11] * 2]


def test_method_and_budget_of_the_server_are_logged_once(busy_asked: list[list[object]]) -> None:
    done = asked(busy_asked, {"evocomp": {"method": "farthest", "keep": 64}})
    assert found(done)[0][1] == [64 + 9, 64 + 9]
    assert (done.stdout + done.stderr).count("visual tokens are chosen by farthest at 64") == 1
    same = asked(busy_asked, EVOCOMP_METHOD="farthest", EVOCOMP_KEEP="1/9")
    assert found(same) == found(done)


def test_a_method_inside_the_decoder_is_refused_at_the_start(busy_asked: list[list[object]]) -> None:
    done = asked(busy_asked, EVOCOMP_METHOD="fastv", EVOCOMP_KEEP="64")
    assert done.returncode and "FastV acts inside the decoder, before layer 1" in done.stdout + done.stderr


def test_the_benchmark_starts_measures_and_stops_a_server(tmp_path: Path) -> None:
    image = open_image("busy:0", 192)
    sample = Sample("0", image, QUESTION, ("red",))
    few = Load(users=(2,), rates=(20.0,), requests=2, rounds=1, new=3)
    options = ["--dtype=float32", "--enforce-eager", "--max-model-len=1024"]
    program = str(Path(sys.executable).with_name("vllm"))
    report = measure("evocomp+", [64], few, "busy", [sample], program=program, options=options)
    assert [row.prompt for row in report.rows] == [585, 73, 585, 73]
    assert all(row.requests > 0 and row.tokens > 0 for row in report.rows)
    mllm = load("busy")
    (whole,) = mllm.answer([image], [QUESTION])
    with attach(mllm, selector_for("evocomp+", "busy"), 64, positions="compact"):
        (fewer,) = mllm.answer([image], [QUESTION])
    for row, answer in zip(report.rows, [whole, fewer, whole, fewer], strict=True):
        replies = [reply for turn in report.served.turns(row.cell) for reply in turn.replies]
        assert len(replies) == 2 and all(reply.text.split()[0] == answer for reply in replies)


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
