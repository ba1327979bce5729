"""A small server that speaks as much of OpenAI's protocol as the benchmark uses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub(ThreadingHTTPServer):
    """Answers with `words`; notes the requests, and how many of them were open at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, words: tuple[str, ...] = ("one", " two", " three"), pause: float = 0.0, status: int = 200,
        joined: bool = False,
    ):  # fmt: skip
        super().__init__(("127.0.0.1", 0), _Handler)
        self.words, self.pause, self.status = words, pause, status
        self.joined = joined  # counts come with the end of the answer, as from `transformers serve`
        self.bodies: list[dict[str, Any]] = []
        self.open = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:  # noqa: N802
        stub = self.server
        with stub.lock:
            stub.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            stub.open += 1
            stub.most = max(stub.most, stub.open)
        try:
            self.send_response(stub.status)
            self.end_headers()
            if stub.status != 200:
                self.wfile.write(b'{"error": {"message": "no such model"}}')
                return
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for word in stub.words:
                time.sleep(stub.pause)
                self._event({"choices": [{"delta": {"content": word}}]})
            usage = {"completion_tokens": len(stub.words), "prompt_tokens": 40}
            if stub.joined:
                self._event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage})
                return
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        finally:
            with stub.lock:
                stub.open -= 1

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def stub(**settings: Any) -> Iterator[Stub]:
    with Stub(**settings) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
