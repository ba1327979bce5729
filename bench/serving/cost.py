"""Measure processor time of served requests, and the share of the selection of tokens inside vLLM.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind .venv/vllm/bin/python -m bench.serving.cost --rounds 3

The engine runs in this process, without HTTP. Methods, budgets and batch sizes take turns in every round, in
a random order, after a warm-up round. No image occurs twice. Processor time shows little about waiting times,
and depends less on other load of the machine than wall time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.console import option, progress, say, show_table, whole_numbers
from bench.evaluation.opening import open_image
from bench.serving.export import servable
from bench.serving.measure import full_name
from bench.serving.settings import FIELD, NONE
from compress.engines.choosing import EngineChoice
from compress.models.conversation import Turn
from compress.models.loading import load
from evosearch.registry import specs

MODEL, QUESTION, TOKENS = "busy", "what color is the star ?", 16


@contextmanager
def noted() -> Iterator[list[float]]:
    """Yield a list of the processor seconds of every selection inside the block."""
    found, choose = list[float](), EngineChoice.choose

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        kept = choose(*args, **kwargs)
        found.append(time.process_time() - start)
        return kept

    EngineChoice.choose = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        EngineChoice.choose = choose  # type: ignore[method-assign]


@click.command()
@option("--methods", "wanted", default="evocomp+,visionzip,divprune", help="Methods, separated by commas.")
@option("--keep", "keeps", default="192,128,64", callback=whole_numbers, help="Visual tokens of an image.")
@option("--together", default="1,8", callback=whole_numbers, help="Requests that are given at once.")
@option("--rounds", default=3, help="Number of rounds.")
def main(wanted: str, keeps: list[int], together: list[int], rounds: int) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # only the table goes to stdout
    from vllm import LLM, SamplingParams

    methods = {name: full_name(name, MODEL) for name in specs(wanted)}
    cells = [(NONE, 0), *((name, keep) for name in methods for keep in keeps)]
    draw, number = Random(0), 0
    mllm, image = load(MODEL), open_image(f"{MODEL}:0", 192).convert("RGB")
    prompt = mllm.chat([Turn("user", QUESTION, [image])])
    answer = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    taken: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    with TemporaryDirectory() as scratch, progress("rounds", "rounds") as report, noted() as choices:
        engine = LLM(
            servable(MODEL, Path(scratch)), dtype="float32", enforce_eager=True, max_model_len=1024,
            hf_overrides={FIELD: {"also": list(methods.values())}},
        )  # fmt: skip
        for turn in range(1 + rounds):
            for name, keep in draw.sample(cells, len(cells)):
                for count in together:
                    requests: list[Any] = []
                    for _ in range(count):
                        number += 1
                        marked = image.copy()
                        marked.putpixel((0, 0), (number % 256, number // 256 % 256, 0))
                        requests.append({"prompt": prompt, "multi_modal_data": {"image": [marked]}})
                        if name != NONE:
                            wish = {"method": methods[name], "keep": keep}
                            requests[-1]["mm_processor_kwargs"] = {FIELD: wish}
                    choices.clear()
                    start = time.process_time()
                    engine.generate(requests, answer, use_tqdm=False)
                    spent = time.process_time() - start
                    if turn:
                        taken.setdefault((name, keep, count), []).append(
                            (spent / count, sum(choices) / count)
                        )
            report(turn, rounds)
    lines = []
    for (name, keep, count), each in sorted(
        taken.items(), key=lambda item: (item[0][2], item[0][0], -item[0][1])
    ):
        whole, choice = (1000 * median(part) for part in zip(*each, strict=True))
        ratios = [none[0] / own[0] for none, own in zip(taken[NONE, 0, count], each, strict=True)]
        spread = f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        lines.append([name, str(keep or ""), str(count), f"{whole:.0f}", f"{choice:.0f}", spread])
    show_table(["method", "keep", "at once", "ms of a request", "of its choice", "none / method"], lines)
    say("processor time, medians over rounds; ratios with the least and the most of the rounds")


if __name__ == "__main__":
    main()
