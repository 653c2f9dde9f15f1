"""`medvlm-r1 serve`: it says where it is, refuses what is not safe, and stops when told to."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from test_serve_engine import MakeEngine

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.backend import LocalBackend
from medvlm_r1.serving.engine import Closed
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.server import Server, is_local


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_stops_when_told(tiny_policy_dir: Path, sign: signal.Signals) -> None:
    command = [sys.executable, "-m", "medvlm_r1", "serve", str(tiny_policy_dir), "--port", "0", "--no-page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        assert RESEARCH_USE in said
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1   model (\S+)", said)
        assert found is not None
        assert found[2] == tiny_policy_dir.name
        with urllib.request.urlopen(f"{found[1]}/v1/models") as reply:
            assert json.load(reply)["data"][0]["id"] == found[2]
        process.send_signal(sign)
        out, err = process.communicate()
    assert process.returncode == 0
    assert out == ""
    assert "Stopped." in err
    assert "Traceback" not in err


@contextmanager
def asked(model: Path) -> Iterator[tuple[subprocess.Popen[str], str, httpx.Response]]:
    """A server in the middle of a long answer: its process, its address, and the stream."""
    command = [sys.executable, "-m", "medvlm_r1", "serve", str(model), "--port", "0", "--max-new-tokens", "1000000"]
    with subprocess.Popen([*command, "--no-page"], stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"(http://\S+)/v1", process.stdout.readline())
        assert found is not None
        body = {"model": model.name, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        try:
            with httpx.stream("POST", f"{found[1]}/v1/chat/completions", json=body, timeout=300) as reply:
                yield process, found[1], reply
        finally:
            process.kill()


def test_ctrl_c_ends_answers_under_way_and_tells_their_clients(endless_dir: Path) -> None:
    with asked(endless_dir) as (process, _, reply):
        lines = reply.iter_lines()
        assert next(lines).startswith("data:")
        process.send_signal(signal.SIGINT)
        last = [line for line in lines if line][-1]
        _, err = process.communicate()
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "closing"
    assert process.returncode == 0
    assert err.strip().endswith("Stopped.")
    assert "Traceback" not in err


def test_a_second_ctrl_c_waits_for_nothing_and_shows_no_traceback(endless_dir: Path) -> None:
    with asked(endless_dir) as (process, address, _):
        process.send_signal(signal.SIGINT)
        while _listens(address):
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    # On a machine that is held up the first one may have ended it before the second came.
    assert (process.returncode, err.strip().splitlines()[-1]) in ((130, "Stopped at once."), (0, "Stopped."))
    assert "Traceback" not in err


def _listens(address: str) -> bool:
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.socket() as other:
        return other.connect_ex((host, int(port))) == 0


def test_the_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr("os._exit", done.append)
    server = Server(FastAPI(), at_once=lambda: done.append("said"))
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, done) == (True, [])
    server.handle_exit(signal.SIGINT, None)
    assert done == ["said", 130]


def test_a_retired_model_takes_no_question(make_engine: MakeEngine) -> None:
    model = MedVLM(LocalBackend(make_engine()), name="tiny", max_new_tokens=2)
    model.close()
    assert model.ask(None, "Which organ?").text
    model.retire()
    with pytest.raises(Closed):
        model.ask(None, "Which organ?")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["phantom-base", "--host", "0.0.0.0"], 2, "--token"),
        (["phantom-base", "--host", "::"], 2, "--token"),
        (["phantom-base", "--host", "example.org"], 2, "--token"),
        (["phantom-base", "--token", "short"], 2, "at least 16"),
        (["phantom-base", "--host", "203.0.113.7", "--token", "x" * 16, "--no-page"], 1, "cannot be listened at"),
        (["openai:http://localhost:1/v1#m", "--no-page"], 2, "API of its own"),
        (["no-such-model", "--port", "0", "--no-page"], 1, "No model folder"),
    ],
)
def test_what_is_not_safe_or_not_there_is_refused(command: Any, arguments: list[str], code: int, said: str) -> None:
    seen, _, err = command("serve", *arguments)
    assert seen == code
    assert said in err
    assert "Traceback" not in err


def test_a_taken_port_is_told(command: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, _, err = command("serve", "phantom-base", "--port", other.getsockname()[1], "--no-page")
    assert code == 1
    assert "--port" in err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "gradio", "prometheus_client"])
def test_a_missing_extra_says_what_to_install(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "sys.argv = ['medvlm-r1', 'serve', 'phantom-base', '--port', '0']\n"
        "from medvlm_r1.cli import main; main()"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert missing in process.stderr
    assert "pip install -e '.[serve]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_local_addresses() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.example.org", ""))


def test_help_comes_without_the_extra(command: Any) -> None:
    code, out, _ = command("serve", "--help")
    assert code == 0
    assert "--token" in out
