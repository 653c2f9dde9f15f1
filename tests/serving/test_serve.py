"""`medvlm-r1 serve`: it says where it is, refuses what is not safe, and stops when told to."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from page_model import scripted
from starlette.testclient import TestClient

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.backend import Closed, LocalBackend
from medvlm_r1.serving.guard import Guard, is_local
from medvlm_r1.serving.medvlm import MedVLM, Question
from medvlm_r1.serving.server import Server, build_app


def start(model: Path | str, *options: str) -> tuple[subprocess.Popen[str], str]:
    """`medvlm-r1 serve` in a process of its own, and its address."""
    command = [sys.executable, "-m", "medvlm_r1", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.readline() + process.stdout.readline()
    assert RESEARCH_USE in printed
    found = re.search(r"Page: (http://127\.0\.0\.1:\d+)/", printed)
    assert found is not None
    return process, found[1]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_stops_when_told(tiny_policy_dir: Path, sign: signal.Signals) -> None:
    process, address = start(tiny_policy_dir)
    with process:
        reply = httpx.get(f"{address}/")
        assert reply.status_code == 200
        assert reply.headers["X-Research-Use"] == RESEARCH_USE
        process.send_signal(sign)
        out, err = process.communicate()
    assert process.returncode == 0
    assert out == ""
    assert "Stopped." in err
    assert "Traceback" not in err


def test_stopping_ends_an_answer_under_way(endless_policy: Any) -> None:
    """A question that would never end is stopped after the grace period, and its asker is told."""
    model = MedVLM(LocalBackend(endless_policy), name="tiny", max_new_tokens=10**6)
    stream = model.stream(Question(question="Which organ?"))
    next(stream)
    server = Server(FastAPI(), stop=model.close)
    asyncio.run(server._stop_later())
    with pytest.raises(Closed):
        list(stream)


def test_a_token_and_a_local_name_are_required() -> None:
    app = build_app(scripted(lambda image, prompt: ""), token="x" * 16, local=False)
    with TestClient(app) as client:
        assert client.get("/").status_code == 401
        page = client.get("/", headers={"accept": "text/html"})
        assert page.headers["WWW-Authenticate"].startswith("Basic")
        for given in ("Bearer wrong", "Basic !!", "Bearer " + "x" * 15, "Digest x"):
            assert client.get("/", headers={"authorization": given}).status_code == 401
        assert client.get("/", headers={"authorization": "Bearer " + "x" * 16}).status_code == 200
        assert client.get("/", auth=("anybody", "x" * 16)).status_code == 200
    with TestClient(build_app(scripted(lambda image, prompt: "")), base_url="http://127.0.0.1:8000") as client:
        assert client.get("/").status_code == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
            refused = client.get("/", headers={"host": host})
            assert (refused.status_code, refused.headers["X-Research-Use"]) == (421, RESEARCH_USE)
        for path in ("/v1/models", "/docs", "/openapi.json", "/metrics"):
            assert client.get(path).status_code == 404


def test_an_error_of_the_program_is_logged_by_its_type_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the patient's name")

    reply = TestClient(Guard(fails, token=None, local=False)).get("/")
    assert reply.status_code == 500
    assert "RuntimeError" in reply.text
    assert "patient" not in reply.text + caplog.text


def test_the_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr("os._exit", done.append)
    server = Server(FastAPI(), at_once=lambda: done.append("said"))
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, done) == (True, [])
    server.handle_exit(signal.SIGINT, None)
    assert done == ["said", 130]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["phantom-base", "--host", "0.0.0.0"], 2, "--token"),
        (["phantom-base", "--host", "::"], 2, "--token"),
        (["phantom-base", "--host", "example.org"], 2, "--token"),
        (["phantom-base", "--token", "short"], 2, "at least 16"),
        (["phantom-base", "--host", "203.0.113.7", "--token", "x" * 16], 1, "cannot be used"),
        (["no-such-model", "--port", "0"], 1, "No model folder"),
    ],
)
def test_what_is_not_safe_or_not_there_is_refused(command: Any, arguments: list[str], code: int, said: str) -> None:
    seen, _, err = command("serve", *arguments)
    assert seen == code
    assert said in err
    assert "Traceback" not in err


def test_a_taken_port_is_told(command: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, _, err = command("serve", "phantom-base", "--port", other.getsockname()[1])
    assert code == 1
    assert "--port" in err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "gradio"])
def test_a_missing_extra_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "sys.argv = ['medvlm-r1', 'serve', 'phantom-base', '--port', '0']\n"
        "from medvlm_r1.cli.main import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert missing in process.stderr
    assert "pip install 'medvlm-r1[serve]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_local_addresses() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.example.org", ""))


def test_help_comes_without_the_extra(command: Any) -> None:
    code, out, _ = command("serve", "--help")
    assert code == 0
    assert "--token" in out
