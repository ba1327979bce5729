"""A vLLM server that runs for the duration of a `with` block."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from bench.serving.settings import VARIABLES
from evosearch.registry import cut

NAME = "vllm"


def executable(given: str | None = None) -> str:
    """The program of the server; ValueError, with what to install, if there is none."""
    beside = Path(sys.executable).with_name(NAME)
    found = given or (str(beside) if beside.exists() else shutil.which(NAME))
    if not found or not shutil.which(found):
        raise ValueError(
            f"{given or NAME} is not there: name the program of an environment that has vLLM and evocomp "
            f"with --vllm PATH (docs/serving.md), or a running server with --url"
        )
    return found


@contextmanager
def serving(
    program: str, model: str, also: Sequence[str], options: Sequence[str] = (), *, wait: float = 900.0
) -> Iterator[str]:
    """The address of a server of a model (folder or hub name) that compresses as a request asks.

    ValueError, with the end of its log, if it does not answer within `wait` seconds.
    """
    with TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        log = Path(scratch) / "log"
        trust = ["--trust-request-mm-kwargs"] if also else []  # requests name methods in mm_processor_kwargs
        command = [program, "serve", model, "--host", "127.0.0.1", "--port", str(port), *trust, *options]
        with log.open("wb") as written:
            process = subprocess.Popen(
                command, stdout=written, stderr=subprocess.STDOUT, env=environment(os.environ, also),
                start_new_session=True,
            )  # fmt: skip
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log, wait)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            _stop(process)


def environment(own: Mapping[str, str], also: Sequence[str]) -> dict[str, str]:
    """The environment of the server, which compresses only if a request asks for it."""
    found = {name: value for name, value in own.items() if name not in VARIABLES.values()}
    return {**found, VARIABLES["also"]: ",".join(also)} if also else found


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx2.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    why = next((line for line in reversed(said) if "Error" in line), said[-1] if said else "it wrote nothing")
    raise ValueError(f"the server did not start: {cut(why, 400)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started, which form a process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
