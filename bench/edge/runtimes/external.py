"""Any device through a command: it reads a JSON request on stdin and prints a JSON answer on stdout.

docs/edge.md has the schema with an example; this file checks answers against it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from bench.edge.benchmark import WORDS, EdgePlan
from bench.edge.chain import STAGES
from bench.edge.timing import EdgeTimes, Measurement
from compress.documents import described, parse_json
from compress.progress import Progress
from evosearch.registry import cut

FORMAT = 1
LONGEST = 1e12  # milliseconds


@dataclass(frozen=True)
class Request:
    """The request to the command: one budget."""

    tokens: int  # visual tokens of the untouched image
    keep: int  # kept visual tokens; equal to `tokens`: no compression
    text: int  # other tokens of the prompt
    chunk: int
    context: int
    chunks: int  # prefill calls
    decoded: int  # tokens decoded one by one after the prompt
    warmup: int
    rounds: int
    format: int = FORMAT


def measure(command: str, plan: EdgePlan, timeout: float, progress: Progress) -> Measurement:
    """Run the command for every budget of the plan; ValueError for an invalid answer.

    `timeout` is in seconds per budget.
    """
    cells, told, protocol, tokens = [], [], plan.protocol, plan.keeps[0]
    text, options = min(WORDS, plan.text), plan.options
    for number, keep in enumerate(plan.keeps):
        rows = keep + text
        context = protocol.context(rows, options.decoded + 1, keep < tokens)
        request = Request(
            tokens, keep, text, protocol.chunk, context, protocol.chunks(rows), options.decoded,
            options.warmup, options.rounds,
        )  # fmt: skip
        answer = ask(command, request, timeout)
        told.append(answer)
        chunks = request.chunks if answer["padded"] else None
        cells.append(EdgeTimes(keep, rows, context, chunks, answer["samples"]))
        progress(number + 1, len(plan.keeps))
    for key in ("device", "precision", "padded"):
        if len({str(answer[key]) for answer in told}) > 1:
            said = ", ".join(str(answer[key]) for answer in told)
            raise ValueError(f"--external: '{key}' differs between budgets ({said}): one device, one table")
    first = told[0]
    facts = [f"timed by the external command: {command}"]
    return Measurement(first["device"], first["precision"], first["padded"], cells, facts=facts)


def ask(command: str, request: Request, timeout: float) -> dict[str, Any]:
    """Run the command once and check its answer."""
    try:
        parts = shlex.split(command)
    except ValueError as problem:
        raise ValueError(f"--external {command}: cannot be split into words ({problem})") from problem
    if not parts:
        raise ValueError("--external names no command")
    shown, asked = f"--external {parts[0]} (keep {request.keep})", json.dumps(asdict(request))
    try:
        done = subprocess.run(parts, input=asked, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise ValueError(f"--external: there is no program {parts[0]}") from None
    except OSError as problem:
        raise ValueError(f"--external: {parts[0]} cannot be run ({problem.strerror})") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{shown} gave no answer within {timeout:g} s: raise --timeout") from None
    except UnicodeDecodeError as problem:
        raise ValueError(f"{shown} printed no text: print one JSON object") from problem
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ValueError(
            f"{shown} failed with status {done.returncode}: {said[-1] if said else 'no message'}"
        )
    try:
        answer = parse_json(done.stdout, "stdout")
    except ValueError as problem:
        raise ValueError(
            f"{shown} did not print JSON ({problem}): print one object and nothing else"
        ) from problem
    return checked(answer, request, shown)


def checked(answer: Any, request: Request, shown: str) -> dict[str, Any]:
    """Return the answer if it has this format; ValueError that names missing or wrong parts."""
    if not isinstance(answer, dict):
        raise ValueError(f"{shown} printed {type(answer).__name__}: print one JSON object (docs/edge.md)")
    kinds = {"format": int, "device": str, "precision": str, "padded": bool, "samples": dict}
    for key, kind in kinds.items():
        if not isinstance(answer.get(key), kind):
            raise ValueError(f"{shown}: '{key}' must be {_words(kind)}, not {described(answer.get(key))}")
    if answer["format"] != FORMAT:
        raise ValueError(f"{shown}: format is {answer['format']}, this version reads {FORMAT}")
    if extra := sorted({*answer} - {*kinds}):
        raise ValueError(f"{shown}: unknown key '{cut(extra[0])}'; known are {', '.join(kinds)}")
    samples = answer["samples"]
    if {*samples} != {*STAGES}:
        raise ValueError(f"{shown}: 'samples' must hold {', '.join(STAGES)} (0 where nothing runs)")
    for stage, values in samples.items():
        if not isinstance(values, list) or len(values) != request.rounds or not all(map(_duration, values)):
            raise ValueError(
                f"{shown}: '{stage}' must be {request.rounds} times in milliseconds, one per round"
            )
    if not min(samples["prefill"]) > 0:
        raise ValueError(f"{shown}: a prefill takes longer than 0 ms")
    return answer | {"samples": {stage: [float(one) for one in samples[stage]] for stage in STAGES}}


def _duration(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= LONGEST


def _words(kind: type) -> str:
    return {int: "a whole number", str: "a text", bool: "true or false", dict: "an object"}[kind]
