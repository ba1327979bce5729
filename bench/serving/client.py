"""Requests to an OpenAI-compatible server, with the arrival times of their tokens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any

import httpx2
from PIL.Image import Image

from evosearch.registry import cut

WAIT = httpx2.Timeout(600, connect=10)


@dataclass(frozen=True)
class ServerRequest:
    """A question about an image; `extra` are further fields of the request's JSON."""

    image: bytes  # PNG
    question: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerReply:
    """Times in seconds on one clock, numbers of tokens of answer and prompt, and the answer."""

    sent: float
    first: float  # arrival of the first text
    last: float  # arrival of the last token, with or without text
    tokens: int
    prompt: int
    text: str

    @property
    def to_first(self) -> float:
        return self.first - self.sent

    @property
    def per_token(self) -> float | None:
        """Mean seconds between tokens after the first; None for a single token."""
        return None if self.tokens < 2 else (self.last - self.first) / (self.tokens - 1)


class Client:
    """A client of a running server, whose `url` ends in /v1. An answer has at most `new` tokens."""

    def __init__(self, url: str, model: str, new: int):
        self.url, self.model, self.new = url.rstrip("/"), model, new
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self.http = httpx2.AsyncClient(timeout=WAIT, headers=headers, limits=limits, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, request: ServerRequest) -> ServerReply:
        """Send a request; ValueError, with the server's message, if the answer fails or has no token."""
        sent = time.perf_counter()
        first, last, tokens, prompt, text = None, sent, 0, 0, ""
        try:
            async with self.http.stream(
                "POST", f"{self.url}/chat/completions", json=self._body(request)
            ) as answer:
                if answer.status_code != 200:
                    why = (await answer.aread()).decode(errors="replace")
                    raise ValueError(
                        f"{self.url} refuses the request ({answer.status_code}): {cut(why, 400)}"
                    )
                async for event in events(answer.aiter_lines()):
                    if "error" in event:
                        raise ValueError(f"{self.url} gave up: {cut(event['error'], 400)}")
                    if usage := event.get("usage"):
                        tokens, prompt = usage["completion_tokens"], usage["prompt_tokens"]
                    for choice in event.get("choices", ()):
                        now, said = time.perf_counter(), choice["delta"].get("content") or ""
                        if said:
                            first = first or now
                            text += said
                        if first:  # special tokens have no text
                            last = now
        except httpx2.HTTPError as problem:
            raise ValueError(f"{self.url} does not answer: {problem or type(problem).__name__}") from problem
        if first is None:
            raise ValueError(f"{self.url} answered without a token: is {self.model!r} a model for images?")
        return ServerReply(sent, first, last, tokens, prompt, text)

    def _body(self, request: ServerRequest) -> dict[str, Any]:
        picture = f"data:image/png;base64,{base64.b64encode(request.image).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": request.question},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.new,
            "stream": True,
            "stream_options": {"include_usage": True},
            **request.extra,
        }


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON of a stream of server-sent events."""
    async for line in lines:
        if line.startswith("data:") and (content := line[5:].strip()) != "[DONE]":
            yield json.loads(content)


async def closed_loop(client: Client, requests: Sequence[ServerRequest], users: int) -> list[ServerReply]:
    """Run `users` concurrent users; each asks the next question when its last one is answered."""
    waiting, replies = iter(requests), list[ServerReply]()

    async def user() -> None:
        for request in waiting:
            replies.append(await client.ask(request))

    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(user())
    return replies


async def poisson(
    client: Client, requests: Sequence[ServerRequest], rate: float, rng: Random
) -> list[ServerReply]:
    """Send requests at random times, `rate` per second on average, without waiting for answers."""

    async def later(seconds: float, request: ServerRequest) -> ServerReply:
        await asyncio.sleep(seconds)
        return await client.ask(request)

    at, tasks = 0.0, []
    async with asyncio.TaskGroup() as group:
        for request in requests:
            tasks.append(group.create_task(later(at, request)))
            at += rng.expovariate(rate)
    return [task.result() for task in tasks]


def png(image: Image, number: int) -> bytes:
    """The image as PNG; one pixel encodes `number`, so that no cache of the server contains the image."""
    marked = image.convert("RGB")
    marked.putpixel((0, 0), ((number >> 16) & 255, (number >> 8) & 255, number & 255))
    buffer = BytesIO()
    marked.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
