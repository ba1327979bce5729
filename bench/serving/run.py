"""Measure a server in rounds; each round has every method, budget and load once, in a random order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from PIL.Image import Image

from bench.serving.client import Client, ServerReply, ServerRequest, closed_loop, png, poisson
from bench.serving.settings import FIELD, NONE
from compress.keep import Keep
from compress.progress import Progress


class ServingCell(NamedTuple):
    """One row of the table: `users` who each ask one question after the other, or `rate` requests/s."""

    method: str
    keep: Keep | None  # None: no compression
    users: int | None
    rate: float | None

    @property
    def load(self) -> str:
        return f"{self.users} at once" if self.rate is None else f"{self.rate:g} per second"


@dataclass(frozen=True)
class Load:
    """The load of the server, and the limits of the measurement."""

    users: tuple[int, ...] = (1, 8)
    rates: tuple[float, ...] = ()
    requests: int = 16
    rounds: int = 6
    new: int = 16
    minutes: float = 30.0
    seed: int = 0


@dataclass(frozen=True)
class CellRound:
    """One cell in one round: its replies, and the seconds from the first request to the last answer."""

    replies: tuple[ServerReply, ...]
    seconds: float


@dataclass(frozen=True)
class Served:
    """All results by cell and round; only complete rounds."""

    cells: tuple[ServingCell, ...]
    rounds: tuple[dict[ServingCell, CellRound], ...]
    stopped: bool  # by the time limit

    def turns(self, cell: ServingCell) -> list[CellRound]:
        return [turns[cell] for turns in self.rounds]


def cells_of(methods: Sequence[str], keeps: Sequence[Keep], load: Load) -> list[ServingCell]:
    """Cells of every load, the one without compression first, then methods and budgets in their order."""
    loads: list[tuple[int | None, float | None]] = [(users, None) for users in load.users]
    loads += [(None, rate) for rate in load.rates]
    wanted: list[tuple[str, Keep | None]] = [(NONE, None)]
    wanted += [(method, keep) for method in methods if method != NONE for keep in keeps]
    return [ServingCell(method, keep, *each) for each in loads for method, keep in wanted]


def run(
    url: str, model: str, cells: Sequence[ServingCell], questions: Sequence[tuple[Image, str]], load: Load,
    progress: Progress | None = None, names: Mapping[str, str] = MappingProxyType({}),
) -> Served:  # fmt: skip
    """Measure the server at `url`, after a warm-up round.

    Questions are asked in turn, and every image is sent with a different mark. The request fields for method
    and budget are sent only for cells with a method, so that any OpenAI-compatible server can be measured
    without one; `names` are the server's names of methods. ValueError for requests that the server refuses.
    """
    try:
        return asyncio.run(
            _run(url, model, list(cells), questions, load, progress or (lambda *_: None), names)
        )
    except* ValueError as problems:
        raise _first(problems) from None


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


async def _run(
    url: str, model: str, cells: list[ServingCell], questions: Sequence[tuple[Image, str]], load: Load,
    progress: Progress, names: Mapping[str, str],
) -> Served:  # fmt: skip
    draw, fresh = Random(load.seed), _fresh(questions, load.seed)
    extra: dict[str, object] = {"ignore_eos": True} if any(cell.method != NONE for cell in cells) else {}
    end, rounds, stopped = time.monotonic() + 60 * load.minutes, list[dict[ServingCell, CellRound]](), False
    async with Client(url, model, load.new) as client:
        for number in range(1 + load.rounds):
            turns = {}
            for cell in draw.sample(cells, len(cells)):
                if time.monotonic() > end:
                    stopped = True
                    break
                count = load.requests if number else max(2, cell.users or 2)
                asked = [next(fresh) for _ in range(count)]
                turns[cell] = await _turn(client, cell, asked, extra, draw, names)
            if stopped:
                break
            if number:
                rounds.append(turns)
            progress(number, load.rounds)
    if not rounds:
        raise ValueError(f"no round was over after {load.minutes:g} minutes: ask for less, or give more time")
    return Served(tuple(cells), tuple(rounds), stopped)


async def _turn(
    client: Client, cell: ServingCell, asked: Sequence[tuple[bytes, str]], extra: dict[str, object],
    draw: Random, names: Mapping[str, str],
) -> CellRound:  # fmt: skip
    if cell.method != NONE:
        wish = {"method": names.get(cell.method, cell.method), "keep": cell.keep}
        extra = {**extra, "mm_processor_kwargs": {FIELD: wish}}
    requests = [ServerRequest(image, question, extra) for image, question in asked]
    start = time.perf_counter()
    if cell.users is not None:
        replies = await closed_loop(client, requests, cell.users)
    else:
        assert cell.rate is not None
        replies = await poisson(client, requests, cell.rate, draw)
    return CellRound(tuple(replies), time.perf_counter() - start)


def _fresh(questions: Sequence[tuple[Image, str]], seed: int) -> Iterator[tuple[bytes, str]]:
    number = Random(seed).randrange(1 << 22)
    while True:
        for image, question in questions:
            number += 1
            yield png(image, number), question
