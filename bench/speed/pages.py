"""Measure the size of reports, and the time that a Chromium takes to open them (extra `browser`).

    python -m bench.speed.pages report.html

The time runs from the call until the page has run its scripts and painted, as wall time and as processor time
of the rendering process. Every time has a fresh context, so nothing is cached.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SAMPLES = "JSON.parse(document.getElementById('data').textContent).tasks.map(task => task.samples.length)"


def opened(browser: Any, file: Path) -> tuple[float, float, int]:
    """Seconds until the page is painted, processor seconds, and the number of the page's samples."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    started = time.perf_counter()
    page.goto(file.resolve().as_uri())
    page.evaluate(PAINTED)
    seconds = time.perf_counter() - started
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    samples = sum(page.evaluate(SAMPLES))
    context.close()
    return seconds, metrics["ProcessTime"], samples


def main(arguments: Sequence[str] | None = None) -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with sync_playwright() as driver:
        program = shutil.which("chromium") or driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        print("| file | MiB | samples | seconds to open | slowest | of the processor |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for file in given.files:
            rounds = [opened(browser, file) for _ in range(given.rounds)]
            clock, busy, samples = zip(*rounds, strict=True)
            told = [median(clock), max(clock), median(busy)]
            size = file.stat().st_size / 2**20
            print(f"| {file.name} | {size:.2f} | {samples[0]} | {' | '.join(f'{one:.2f}' for one in told)} |")
        browser.close()


if __name__ == "__main__":
    main()
