"""Several processes train as one does: real processes that talk through gloo."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from compress.compressor.network import Compressor
from compress.parallel.processes import Processes, _portable, own_device, together

ROOT = Path(__file__).parents[3]
TRAIN = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
sys.path.insert(0, {str(ROOT)!r})
spec = spec_from_file_location("planted", {str(Path(__file__).parents[1] / "training" / "test_run.py")!r})
planted = module_from_spec(spec)
spec.loader.exec_module(planted)
mllm = planted.Planted()
samples, labels = planted.lessons(mllm, 0, 37)
# Batches of 16, 16 and 1: the first process takes the last alone.
settings = planted.TrainConfig(epochs=2, batch=16, momentum=0.5, clip=1.0)
run = lambda folder, **how: planted.train(mllm, labels, samples, folder, settings, **how)
"""


def here() -> dict:
    """What TRAIN defines, in this process."""
    names: dict = {}
    exec(TRAIN, names)
    return names


def close(one: Path, other: Path) -> bool:
    ours, theirs = (Compressor.load(folder).state_dict() for folder in (one, other))
    return all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4) for name in ours)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path):
    """Also in parts, and with features that each makes half of; launched by `together` and by accelerate."""
    alone = here()["run"](tmp_path / "alone")
    assert alone.samples == 33
    cache = str(tmp_path / "cache")
    ways = {"plain": {}, "parts": {"micro_batch": 3}, "disk": {"features": "disk", "cache": cache}}
    calls = [f"run({str(tmp_path / name)!r}, **{how!r})" for name, how in ways.items()]
    code = "\n".join([TRAIN, *calls])
    together(partial(exec, code, {}), 2)
    for name in ways:
        assert close(tmp_path / "alone", tmp_path / name), name
        rows = (tmp_path / name / "curves.csv").read_text().splitlines()[1:]
        losses = [float(row.split(",")[2]) for row in rows]
        assert losses == pytest.approx([epoch.loss for epoch in alone.history])


@pytest.mark.slow
def test_accelerate_launch_starts_the_same(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(TRAIN + f"run({str(tmp_path / 'launched')!r})\n")
    options = ["--cpu", "--num_processes", "2", str(script)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    here()["run"](tmp_path / "alone")
    assert close(tmp_path / "alone", tmp_path / "launched")


@pytest.mark.slow
def test_a_killed_process_ends_all_and_one_goes_on_where_they_were(tmp_path: Path):
    kill = """
import os, signal
def kill(stage, done, total):
    if stage == "train" and done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    code = TRAIN + kill + f"run({str(tmp_path / 'cut')!r}, checkpoint_every=2, progress=kill)\n"
    with pytest.raises(OSError, match="a training process was killed.*the last checkpoint is kept"):
        together(partial(exec, code, {}), 2)
    run, steps = here()["run"], []
    run(tmp_path / "cut", progress=lambda stage, done, _: steps.append(done) if stage == "train" else 0)
    assert steps == [5, 6]
    run(tmp_path / "alone")
    assert close(tmp_path / "alone", tmp_path / "cut")


@pytest.mark.slow
def test_the_first_says_what_it_found_and_any_says_what_went_wrong():
    code = "import os; assert os.environ['WORLD_SIZE'] == '2'; rank = int(os.environ['RANK'])\n"
    assert together(partial(eval, "__import__('os').environ['RANK']"), 2) == "0"
    with pytest.raises(ValueError, match="rank 1 is unhappy"):
        together(partial(exec, code + "if rank == 1: raise ValueError(f'rank {rank} is unhappy')", {}), 2)


def test_an_error_that_cannot_be_sent_is_told_in_its_words():
    class OddError(Exception):
        """Of a class that nobody can import."""

    told = _portable(OddError("too hot"))
    assert type(told) is RuntimeError and str(told) == "OddError: too hot"
    sent = ValueError("too cold")
    assert _portable(sent) is sent


def test_a_launcher_inside_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(name) for name in ("cuda", "cpu", "cuda:0")] == ["cuda:1", "cpu", "cuda:0"]
    with pytest.raises(ValueError, match="a launcher has started several already"):
        together(int, 2)


def test_shares_are_the_whole_and_one_process_needs_no_other():
    shares = [Processes(place, 3).share(list(range(8))) for place in range(3)]
    assert sorted(sum(shares, [])) == list(range(8))
    one = Processes()
    value = torch.ones(2)
    assert one.sum(value) is value and one.one_says(lambda: 3) == 3 and one.agree(3)
