"""Measure on a GPU, in at most ten minutes, what cannot be measured on a CPU.

    make gpu
    python -m bench.speed.gpu --out gpu --device cpu --small    # the same parts in small, to try the script

Every part is a separate command with a time limit; if it fails or exceeds the limit, the reason is recorded,
and the other parts run. Finished parts are not run again. `gpu.json` has all results, with the commands.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.console import OutFolder, option, say
from bench.evaluation.environment import environment
from compress.files import replacing

TAIL = 2000  # characters of a failed part's output


@dataclass(frozen=True)
class Part:
    """One command, its limit in seconds, and a small version of it."""

    told: str
    command: str
    seconds: int
    small: str


PARTS = {
    "equal": Part(
        "kept tokens and answers against the CPU",
        "bench.speed.equal --device {device} --model busy -n 16 --out {out}", 90,
        "bench.speed.equal --device {device} --model micro -n 2 --methods evocomp,fastv --out {out}",
    ),
    "forward": Part(
        "prefill of every family at its published shape",
        "bench.speed.forward --device {device} --dtype bfloat16 --rounds 3 --out {out}", 120,
        "bench.speed.forward --device {device} --dtype float32 --shapes qwen3-vl-2b --depth-slice 1 "
        "--rounds 1 --out {out}",
    ),
    "labelling": Part(
        "labels at 7B",
        "bench.speed.labelling --shape llava-1.5-7b --device {device} --dtype bfloat16 -n 16 --together 1,16 "
        "--evaluations 102 --rounds 1 --naive 4 --out {out}", 90,
        "bench.speed.labelling --model micro --device {device} -n 1 --together 1 --evaluations 8 --rounds 1 "
        "--naive 1 --out {out}",
    ),
    "figure4": Part(
        "2880 tokens to 640, 320 and 160, eager and as graphs",
        "bench.speed.figure4 --device {device} --methods fastv,visionzip,divprune,evocomp --repetitions 5 "
        "--out {out}", 150,
        "bench.speed.figure4 --device {device} --dtype float32 --shape llava-1.5-7b --depth-slice 1 "
        "--keep 64 --methods divprune --fast divprune --modes static --new 2 --repetitions 2 --warmup 0 "
        "--out {out}",
    ),
    "selection": Part(
        "what choosing costs",
        "bench.speed.selection --model busy --device {device} --keep 64 --rounds 20 --out {out}", 60,
        "bench.speed.selection --model micro --device {device} --keep 16 --rounds 2 --methods grid,fastv "
        "--out {out}",
    ),
    "batch": Part(
        "answers at batch 16 against 1",
        "bench.speed.throughput --model busy --device {device} --batch 1,16,64 -n 128 --rounds 3 --out {out}",
        60,
        "bench.speed.throughput --model micro --device {device} --batch 1,4 -n 4 --rounds 1 --out {out}",
    ),
    "video": Part(
        "prefill of 32 frames",
        "bench.speed.forward --device {device} --dtype bfloat16 --frames 32 --keep 10% --method evs "
        "--shapes llava-onevision-7b,qwen2.5-vl-7b,qwen3-vl-8b --rounds 3 --out {out}", 90,
        "bench.speed.forward --device {device} --dtype float32 --frames 2 --keep 10% --method random "
        "--shapes qwen3-vl-2b --depth-slice 1 --rounds 1 --out {out}",
    ),
}  # fmt: skip


def done(part: Part, name: str, out: Path, device: str, small: bool, left: float) -> dict[str, Any]:
    """Run one part: its figures, or the reason why it has none."""
    place = out / (name if name == "figure4" else f"{name}.json")
    command = (part.small if small else part.command).format(device=device, out=shlex.quote(str(place)))
    found: dict[str, Any] = {"told": part.told, "command": f"python -m {command}"}
    started = time.perf_counter()
    try:
        run = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True,
            timeout=min(part.seconds, left),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {**found, "failed": f"it took more than {min(part.seconds, left):.0f} s"}
    found["seconds"] = time.perf_counter() - started
    if run.returncode:
        return {**found, "failed": (run.stderr or run.stdout)[-TAIL:]}
    return {**found, "said": run.stdout, "figures": figures(place)}


def figures(place: Path) -> Any:
    """The figures that a part has written: one file, or one for each of its runs."""
    if place.is_file():
        return json.loads(place.read_text())
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(place.glob("*/results.json"))}


def finished(file: Path) -> dict[str, Any]:
    """The parts that an earlier run finished."""
    if not file.is_file():
        return {}
    known: Mapping[str, Any] = json.loads(file.read_text())["parts"]
    return {name: one for name, one in known.items() if "failed" not in one}


@click.command()
@option("--out", required=True, type=OutFolder(), help="Folder for gpu.json and what each part writes.")
@option("--device", default="cuda", help="Device of the models.")
@option("--small", is_flag=True, help="Run tiny forms of all parts, to try the script.")
@option("--minutes", default=10.0, type=click.FloatRange(0, min_open=True), help="Time limit of all parts.")
def main(out: Path, device: str, small: bool, minutes: float) -> None:
    """Run all parts, the most telling first, as far as the time goes."""
    out.mkdir(parents=True, exist_ok=True)
    file, end = out / "gpu.json", time.perf_counter() + 60 * minutes
    parts = finished(file)
    for name, part in PARTS.items():
        if name in parts:
            say(f"{name}: done before")
            continue
        left = end - time.perf_counter()
        if left < 1:
            say(f"{name}: no time left; run again")
            continue
        parts[name] = done(part, name, out, device, small, left)
        say(f"{name}: {parts[name].get('failed') or part.told}")
        with replacing(file) as written:
            written.write_text(json.dumps({"environment": environment(), "parts": parts}, indent=1))
    if failed := [name for name in PARTS if "failed" in parts.get(name, {"failed": ""})]:
        raise SystemExit(f"not measured: {', '.join(failed)}; the reasons are in {file}")
    say(f"all figures, with their commands, are in {file}")


if __name__ == "__main__":
    main()
