"""Models and compressors by hub name: the real client against a hub in this process, which is small."""

from __future__ import annotations

import json
import re
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig

from compress import hub
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import CONFIG, FILES, WEIGHTS, Compressor
from compress.models.loading import load

SHA = "0" * 39 + "1"


class Handler(BaseHTTPRequestHandler):
    """What the client asks of a hub to read a repository, and to commit plain files to it."""

    repositories: dict[str, dict[str, bytes]]  # name -> path -> content
    gated: set[str]
    refused: set[str]  # nobody may write there
    asked: list[str]

    def do_HEAD(self) -> None:  # noqa: N802 - the library's name
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if name not in self.repositories:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = self.repositories[name]
        if found := re.search(r"/resolve/[^/]+/(.+)", path):
            if name in self.gated:
                return self.answer(403, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
            content = files[found[1]]
            return self.answer(200, content, {"X-Repo-Commit": SHA, "ETag": f'"{hash(content):x}"'})
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": one, "size": len(content), "oid": "0"}
                for one, content in files.items()
            ]
            return self.answer(200, rows)
        if path.endswith("/revision/nowhere"):
            return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return self.answer(200, {"id": name, "sha": SHA, "siblings": [], "tags": []})

    def do_POST(self) -> None:  # noqa: N802
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.refused:
                return self.answer(403, {"error": "You don't have the rights"}, {})
            self.repositories.setdefault(name, {})
            return self.answer(200, {"url": f"{url}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = b64decode(entry["value"]["content"])
                self.repositories[name][entry["value"]["path"]] = content
        commit = {"success": True, "commitOid": SHA, "commitUrl": f"{url}/{name}/commit/{SHA}"}
        return self.answer(200, {**commit, "hookOutput": "", "pullRequestUrl": None})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def point_to(url: str, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """The client reads the address of the hub when it is imported."""
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setenv("HF_TOKEN", "hf_of_this_test")


@pytest.fixture
def small_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    shared = SimpleNamespace(repositories={}, gated=set(), refused=set(), asked=[])
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), vars(shared)))
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", monkeypatch)
    yield shared
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody listens, and no patience with retries."""
    point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s before a retry"))


@pytest.fixture(scope="module")
def compressor() -> Compressor:
    torch.manual_seed(0)
    made = Compressor(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, vocab_size=32
        )
    ).eval()
    made.info = {
        "base_model": "llava-hf/llava-1.5-7b-hf", "score": 0.5, "loss": "ghm+cos",
        "labels": [{"grouper": "vocabulary", "keep": 32}],
    }  # fmt: skip
    return made


def folder_of(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir() if one.is_file()}


def same(one: Compressor, other: Compressor) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("owner/name", True), ("name", False), ("./name", False), ("/owner/name", False), ("~/name", False),
        ("a/b/c", False), ("owner/", False),
    ],
)  # fmt: skip
def test_names_of_the_hub_are_told_from_paths(name: str, can: bool) -> None:
    assert hub.is_name(name) is can


def test_a_pushed_compressor_is_pulled_unchanged(small_hub, compressor: Compressor) -> None:
    url = compressor.push_to_hub("me/small", private=True)
    assert url.endswith(f"/me/small/commit/{SHA}")
    assert sorted(small_hub.repositories["me/small"]) == sorted(FILES)
    pulled = Compressor.from_pretrained("me/small")
    assert same(pulled, compressor) and pulled.info == compressor.info and not pulled.training


def test_the_method_takes_a_hub_name_and_keeps_the_folder_it_fetched(small_hub, compressor, tmp_path) -> None:
    compressor.push_to_hub("me/small")
    method = EvoComp("me/small", depth=2).load()
    assert same(method.network, compressor) and method.depth == 2
    assert SHA in str(method.compressor) and Path(str(method.compressor)).is_dir()
    assert EvoComp(compressor).load().network is compressor


def test_only_what_is_needed_is_fetched(small_hub, compressor, tmp_path) -> None:
    compressor.save_pretrained(tmp_path / "c")
    extra = {"checkpoint.pt": b"large", "old/compressor.json": b"{}"}
    small_hub.repositories["me/small"] = folder_of(tmp_path / "c") | extra
    Compressor.from_pretrained("me/small")
    assert not [line for line in small_hub.asked if "checkpoint.pt" in line or "/old/" in line]


def test_a_folder_is_pushed_without_what_lies_beside(small_hub, compressor, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checkpoint.pt").write_bytes(b"large")
    (tmp_path / "mine" / "README.md").write_text("my own words")
    url = compressor.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/small")
    assert url and "commit" in url
    there = small_hub.repositories["me/small"]
    assert sorted(there) == sorted(FILES) and there["README.md"] == b"my own words"
    assert compressor.save_pretrained(tmp_path / "other") is None


def test_the_cache_serves_when_the_hub_is_gone(small_hub, compressor, tmp_path, monkeypatch) -> None:
    compressor.push_to_hub("me/small")
    Compressor.from_pretrained("me/small")
    point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert same(Compressor.from_pretrained("me/small"), compressor)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(Compressor.from_pretrained("me/small"), compressor)


def test_a_model_is_loaded_by_its_hub_name(small_hub, tiny, tiny_folder, pictures) -> None:
    extra = {"pytorch_model.bin": b"a pickle", "original/model.safetensors": b"the same once more"}
    small_hub.repositories["me/tiny"] = folder_of(tiny_folder) | extra
    loaded = load("me/tiny")
    assert loaded.name == "me/tiny" and loaded.fingerprint() == tiny.fingerprint()
    assert loaded.answer(pictures[:1], ["how many ?"]) == tiny.answer(pictures[:1], ["how many ?"])
    assert not [line for line in small_hub.asked if "pytorch_model.bin" in line or "original" in line]


def test_a_model_of_another_family_is_refused_before_its_weights_are_fetched(small_hub) -> None:
    small_hub.repositories["me/bert"] = {
        "config.json": b'{"model_type": "bert"}', "model.safetensors": b"very large",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'bert' model; supported: .*llava"):
        load("me/bert")
    assert not [line for line in small_hub.asked if "safetensors" in line]


@pytest.mark.usefixtures("no_hub")
def test_an_unreachable_hub_is_said_at_once(monkeypatch) -> None:
    for name in ("llava-hf/llava-1.5-7b-hf", "me/small"):
        loading = load if name.startswith("llava") else Compressor.from_pretrained
        with pytest.raises(
            ValueError, match=f"cannot reach http.*{name} is neither a folder nor in the cache"
        ):
            loading(name)
    with pytest.raises(ValueError, match="the hub cannot be reached for me/small"):
        Compressor(LlamaConfig(hidden_size=8, num_attention_heads=2, vocab_size=8)).push_to_hub("me/small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set, and me/small .*hf download me/small"):
        Compressor.from_pretrained("me/small")


@pytest.mark.timeout(60)
def test_a_hub_behind_a_silent_firewall_is_given_up(tmp_path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are made, nothing is answered
        point_to(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "cache", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
        with pytest.raises(ValueError, match="cannot reach http.*timed out"):
            Compressor.from_pretrained("me/small")


def test_missing_gated_and_forbidden_repositories_say_what_to_do(small_hub, compressor) -> None:
    small_hub.repositories["them/gated"] = {CONFIG: b"{}", WEIGHTS: b"", "config.json": b"{}"}
    small_hub.gated.add("them/gated")
    small_hub.refused.add("them/theirs")
    with pytest.raises(
        ValueError, match="no folder me/nothing, and none on the hub that you may see.*log in"
    ):
        Compressor.from_pretrained("me/nothing")
    with pytest.raises(
        ValueError, match="them/gated is gated: ask for access at http.*/them/gated, then log"
    ):
        Compressor.from_pretrained("them/gated")
    with pytest.raises(ValueError, match="cannot load model 'them/gated': them/gated is gated"):
        load("them/gated")
    with pytest.raises(ValueError, match="the hub refuses them/theirs: .*log in"):
        compressor.push_to_hub("them/theirs")
    compressor.push_to_hub("me/small")
    with pytest.raises(ValueError, match="me/small has no revision 'nowhere'"):
        Compressor.from_pretrained("me/small", revision="nowhere")


def test_a_repository_without_a_compressor_is_refused(small_hub) -> None:
    small_hub.repositories["me/model"] = {"config.json": b"{}"}
    with pytest.raises(ValueError, match="me/model is a repository without compressor.json and"):
        Compressor.from_pretrained("me/model")
    small_hub.repositories["me/half"] = {WEIGHTS: b""}
    with pytest.raises(ValueError, match="no compressor here"):
        Compressor.from_pretrained("me/half")
    with pytest.raises(ValueError, match="cannot load model 'me/half': .* without config.json"):
        load("me/half")
