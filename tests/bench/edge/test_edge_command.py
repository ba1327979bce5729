"""The whole chain, from image to answer, on the shipped micro model; and every mistake a user can make."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from bench.cli import main
from bench.edge import extras
from bench.edge.benchmark import published_size
from bench.edge.bundle import META, Bundle
from bench.edge.chain import Chain
from bench.edge.precision import Precision
from bench.edge.prepare import prepare, question
from bench.edge.protocol import Protocol
from bench.edge.runtimes.ort import OrtBackend
from bench.evaluation.compressors import selector_for
from bench.tasks.load import load_tasks
from compress.attach.session import attach
from compress.compressor.evocomp import EvoComp
from compress.models.loading import MLLM, load
from tests import cli

EXACT = "W4A32KV8"  # kernels that compute as torch does; int8 activations differ in their rounding
KEEPS = (144, 48, 32, 16)
run, refused = (partial(each, "bench", "edge") for each in (cli.run, cli.refused))


@pytest.fixture(scope="module")
def micro() -> MLLM:
    return load("micro")


@pytest.fixture(scope="module")
def network(micro: MLLM) -> Any:
    selector = selector_for("evocomp", "micro")
    assert isinstance(selector, EvoComp)
    return selector.network


# The chain in torch ---------------------------------------------------------------------------------------


def test_in_floats_the_chain_gives_the_answers_of_the_package(micro: MLLM, network: Any):
    """Fixed shapes, padding and a compressor of fixed length change nothing: the same tokens, the same words
    as `attach` on the transformers model."""
    floats = Precision.parse("W32A32KV32")
    work = prepare(micro, network, Protocol.scaled(144), 16, floats, "onnx")
    chain = Chain(work.reference, work.settings, work.embeddings)
    tokenizer = micro.processor.tokenizer
    ((_, samples),) = load_tasks(["gqa"], 4).items()
    for sample in samples:
        asked = question(micro, sample.image, sample.question)
        for keep in (144, 16):
            with attach(micro, EvoComp(network), keep=keep) as trace:
                expected = micro.answer([sample.image], [sample.question])[0]
            got = chain.run(asked, keep, 4, [tokenizer.eos_token_id])
            assert tokenizer.decode(got.ids, skip_special_tokens=True).strip() == expected
            assert got.kept == trace.samples[0].kept.get(0, [*range(144)])


def test_random_weights_are_asked_a_made_up_prompt(tiny: MLLM, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, Any]] = []

    def build(name: str, **options: Any) -> MLLM:
        asked.append(options)
        return tiny

    monkeypatch.setattr("bench.edge.benchmark.build", build)
    subject = published_size("llava-1.5-7b", 2)
    assert asked[-1]["depth"] == 2 and asked[-1]["whole_tower"]
    work = prepare(
        subject.mllm, subject.compressor, Protocol.scaled(144), 16, Precision(), "onnx", random=True
    )
    (prompt,) = subject.questions(work)
    assert work.settings.random and not subject.stop and prompt.words == 16
    answer = Chain(work.reference, work.settings, work.embeddings).run(prompt, 16, 3)
    assert (len(answer.kept), len(answer.ids), answer.rows) == (16, 3, 32)


# The chain on ONNX Runtime --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Exported files, results and the printed table of one run of the command."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    files, out = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("out")
    result = run(
        "--precision", EXACT, "--threads", 1, "--samples", 4, "--warmup", 1, "--rounds", 3, "--files", files,
        "--out", out, "--paper",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr or result.exception
    return files, out, result.stdout


@pytest.mark.slow
def test_answers_are_those_of_the_same_weights_in_torch(made: tuple[Path, Path, str]):
    held = json.loads((made[1] / "edge.json").read_text())["runtimes"][0]["parity"]
    assert held["questions"] == 4 * len(KEEPS)
    assert held["same_answer"] == held["same_kept"] == held["questions"]
    assert held["same_word"] == 1 and held["worst"] < 3e-2


@pytest.mark.slow
def test_the_table_has_the_form_of_the_papers(made: tuple[Path, Path, str]):
    ours, theirs = json.loads((made[1] / "edge.json").read_text())["runtimes"]
    assert [row["keep"] for row in ours["rows"]] == [*KEEPS]
    assert (
        [row["chunks"] for row in ours["rows"]] == [row["chunks"] for row in theirs["rows"]] == [5, 2, 2, 1]
    )
    assert [row["context"] for row in ours["rows"]] == [256, 64, 64, 64]
    for row in ours["rows"]:
        assert {len(times) for times in row["samples"].values()} == {3}
        assert row["total"] > 0 and (row["stages"]["compression"] > 0) == (row["keep"] < 144)
    assert (ours["label"], theirs["label"]) == (EXACT, "W4A16KV8")
    assert all(name in made[2] for name in (f"ONNX Runtime CPU {EXACT}", "paper, MT6991 NPU W4A16KV8"))
    assert {path.name for path in made[1].iterdir()} == {"edge.json", "edge.csv", "edge.md", "edge.html"}


@pytest.mark.slow
def test_files_hold_four_graphs_and_are_used_again(made: tuple[Path, Path, str]):
    folder = made[0] / "onnx"
    names = {path.name for path in folder.iterdir()}
    assert {"32t256c.onnx", "1t256c.onnx", "32t64c.onnx", "1t64c.onnx", "decoder.onnx.data"} <= names
    before = (folder / META).stat().st_mtime_ns
    again = run("--precision", EXACT, "--threads", 1, "--samples", 1, "--warmup", 1, "--rounds", 1, "--files",
                made[0], "--runtimes", "ort-static", "--clock", "processor", "--json")  # fmt: skip
    assert again.exit_code == 0, again.stderr or again.exception
    assert (folder / META).stat().st_mtime_ns == before
    (static,) = json.loads(again.stdout)["runtimes"]
    assert static["runtime"] == "ONNX Runtime CPU, a graph per shape"
    assert "1 rounds, processor time" in static["facts"][0]


@pytest.mark.slow
def test_files_of_other_settings_are_not_used(made: tuple[Path, Path, str]):
    told = refused("--precision", "W4A8KV8", "--files", made[0])
    assert "exported with other settings: precision is W4A32KV8 there and W4A8KV8 here" in told


@pytest.mark.slow
def test_float_parts_are_those_of_torch(made: tuple[Path, Path, str], micro: MLLM, network: Any):
    backend = OrtBackend(Bundle.open(made[0] / "onnx"), threads=1)
    ((_, (sample,)),) = load_tasks(["gqa"], 1).items()
    inputs = micro.prepare([sample.image], [sample.question])
    embeds = micro.merge(inputs)[0].detach().numpy()
    start = inputs["input_ids"][0].tolist().index(micro.image_token_id)
    visual = backend.vision(inputs["pixel_values"].numpy())
    assert np.abs(visual - embeds[start : start + 144]).max() < 1e-4 * np.abs(embeds).max()
    length = backend.bundle.settings.length
    padded, present = np.zeros((length, embeds.shape[1]), np.float32), np.zeros(length, np.float32)
    padded[: len(embeds)], present[: len(embeds)] = embeds, 1
    logits = backend.score(padded, present)
    padded[len(embeds) :] = 7  # what is in the padding does not matter
    assert np.array_equal(backend.score(padded, present)[: len(embeds)], logits[: len(embeds)])


# Mistakes -------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("--runtimes", "ortt"), "unknown runtime 'ortt'; did you mean 'ort'?"),
    (("--runtimes", ","), "--runtimes"),
    (("--keep", 145), "between 1 and the 144 visual tokens"),
    (("--keep", "few"), "write budgets with commas"),
    (("--contexts", 256), "give two lengths"),
    (("--contexts", "128,64"), "need 155 rows of cache; the context without compression has 128"),
    (("--chunk", 0), "a chunk has at least 1 row"),
    (("--chunk", 128, "--contexts", "256,64"), "of at least one chunk (128) each"),
    (("--text", 4), "has room for 4: raise --text"),
    (("--precision", "W4A16KV8"), "write W4 or W32"),
    (("--precision", "W4A8KV16"), "the ONNX backend's cache is KV8 or KV32"),
    (("--depth-slice", 13), "the decoder has 12 layers"),
    (("--model", "micro-next"), "is a 'llava_next' model: fixed shapes need images of one size"),
    (("--shape", "llava-7b"), "unknown shape 'llava-7b'; did you mean"),
    (("--shape", "llava-1.5-7b", "--depth-slice", 0), "choose 1 to 32 decoder layers"),
    (("--shape", "llava-next-7b"), "is a 'llava_next' model: fixed shapes need images of one size"),
    (("--threads", 2, "--clock", "processor"), "add --threads 1"),
    (("--tokens", 576), "--tokens needs --external"),
    (("--external", "no-such-phone"), "there is no program no-such-phone"),
    (("--external", "false", "--tokens", 144), "failed with status 1"),
    (
        ("--shape", "llava-1.5-7b", "--compressor", "mine"),
        "--compressor: not with --shape, whose weights are",
    ),
    (("--shape", "llava-1.5-7b", "--model", "micro", "--samples", 2), "--model, --samples: not with --shape"),
    (
        ("--external", "false", "--shape", "llava-1.5-7b", "--depth-slice", 2),
        "--shape, --depth-slice: not with",
    ),
    (("--external", "false", "--threads", 1, "--clock", "wall"), "--threads, --clock: not with --external"),
    (
        ("--external", "false", "--runtimes", "ort", "--precision", EXACT, "--positions", "compact"),
        "--runtimes, --precision, --positions: not with --external, which times another device",
    ),
    (("--external", "false", "--files", "exported"), "--files: not with --external"),
    (("--external", "false", "--clock", "processor"), "--clock: not with --external"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda one: " ".join(map(str, one))[:60])
def test_mistakes_get_one_line(arguments: tuple[object, ...], expected: str, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    ours = () if "--external" in arguments else ("--threads", 1, "--files", tmp_path / "files")
    assert expected in refused(*ours, *arguments, "--out", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("runtime", "extra"), [("ort", "edge"), ("llamacpp", "llamacpp")])
def test_a_missing_runtime_names_its_extra_before_the_work(
    runtime: str, extra: str, monkeypatch: pytest.MonkeyPatch
):
    def nothing(module: str) -> Any:
        raise ImportError(name=module)

    monkeypatch.setattr(extras, "import_module", nothing)
    monkeypatch.setattr("bench.edge.benchmark.load_model", lambda *given: 1 / 0)
    assert f"is not installed: pip install 'evocomp[{extra}]'" in refused("--runtimes", runtime)


def test_a_folder_without_an_export_is_told(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing was exported here"):
        Bundle.open(tmp_path)
    (tmp_path / META).write_text("{")
    with pytest.raises(ValueError, match="not JSON .*; export again"):
        Bundle.open(tmp_path)


def test_another_device_is_timed_through_a_command(tmp_path: Path):
    device = tmp_path / "device.py"
    device.write_text("""
import json, sys
asked = json.load(sys.stdin)
times = {"vision": 220, "compression": 121, "prefill": 155 * asked["chunks"], "decode": 75}
samples = {stage: [time] * asked["rounds"] for stage, time in times.items()}
about = {"format": 1, "device": "phone", "precision": "W4A16KV8", "padded": True}
print(json.dumps(about | {"samples": samples}))
""")
    result = run("--external", shlex.join([sys.executable, str(device)]), "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    (phone,) = json.loads(result.stdout)["runtimes"]
    assert [row["keep"] for row in phone["rows"]] == [576, 192, 128, 64]
    assert [row["stages"]["prefill"] for row in phone["rows"]] == [775, 310, 310, 155]


def test_the_examples_in_the_help_are_ones_that_parse(tmp_path: Path):
    text = run("--help").stdout
    group = main.get_command(click.Context(main), "bench")
    assert isinstance(group, click.Group)
    command = group.get_command(click.Context(group), "edge")
    assert command is not None
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("evocomp bench edge")]
    assert len(examples) == 1
    for example in examples:
        command.make_context("edge", shlex.split(example)[3:])
