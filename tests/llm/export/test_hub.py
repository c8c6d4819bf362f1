"""`llm.export --push_to_hub`, against a server on the loopback address in place of the hub."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants as constants
import pytest

from llm.export.__main__ import main
from tests.llm.training_runs import train


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, with all files in one commit; notes each request."""

    requests: list[tuple[str, str, bytes]]
    refuses: bool

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body)

    def answer(self, body: bytes) -> None:
        place = self.path.partition("?")[0]
        self.requests.append((place, self.headers.get("Authorization", ""), body))
        host = f"http://{self.headers['Host']}"
        reply: dict[str, Any] = {"id": "me/mine", "sha": "0" * 40, "siblings": []}
        if place == "/api/repos/create":
            reply = {"url": f"{host}/me/mine"}
        elif place == "/api/validate-yaml":
            reply = {"errors": [], "warnings": []}
        elif "/preupload/" in place:
            files = json.loads(body)["files"]
            reply = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                               for f in files]}  # fmt: skip
        elif "/commit/" in place:
            reply = {"commitUrl": f"{host}/me/mine/commit/{'1' * 40}", "commitOid": "1" * 40}
        data = json.dumps({"error": "You have no right to write here"} if self.refuses else reply)
        self.send_response(403 if self.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Noting", (Hub,), {"requests": [], "refuses": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "run"
    assert train(chain_base, folder, chain_args, "--steps=1", "--evaluation.steps=0") == 0
    return folder


def committed(hub: type[Hub]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and files of the only commit."""
    (body,) = [body for place, _, body in hub.requests if "/commit/" in place]
    lines = [json.loads(line) for line in body.splitlines()]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    return next(line["value"] for line in lines if line["key"] == "header"), files


@pytest.mark.parametrize("private", [False, True])
def test_push__uploads_the_exported_folder(
    private: bool,
    run: Path,
    tmp_path: Path,
    hub: type[Hub],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "model"
    flags = [str(run), f"--out={out}", "--push_to_hub=me/mine", *["--private"] * private]
    assert main(flags) == 0
    ((token, body),) = [(t, b) for place, t, b in hub.requests if place == "/api/repos/create"]
    assert token == "Bearer hf_secret"
    asked = json.loads(body)
    assert (asked["organization"], asked["name"]) == ("me", "mine")
    assert (asked.get("visibility") == "private") == private
    header, files = committed(hub)
    assert header["summary"] == "Step 1 of run"
    assert files == {file.name: file.read_bytes() for file in out.iterdir()}
    assert {"model.safetensors", "README.md", "config.json"} <= set(files)
    assert capsys.readouterr().out.splitlines()[-1].endswith("/me/mine")


def test_push__a_refusal_keeps_the_folder(
    run: Path, tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = True
    out = tmp_path / "model"
    assert main([str(run), f"--out={out}", "--push_to_hub=me/mine"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "push_to_hub: me/mine was not uploaded: " in line and "403" in line
    assert f"hf upload me/mine {out}" in line and (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "token", "message"),
    [
        (["--push_to_hub=a/b/c"], "x", "push_to_hub: Repo id must be"),
        (["--push_to_hub=me/mine"], "", "push_to_hub: no token of the hub; run hf auth login"),
        (["--private"], "x", "private: nothing is uploaded; give --push_to_hub"),
    ],
)
def test_push__refused_before_any_work(
    flags: list[str],
    token: str,
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main([str(run), f"--out={tmp_path / 'model'}", *flags]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "model").exists()
