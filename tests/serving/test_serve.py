"""`medvlm-r1 serve`: it says where it is, refuses what is not safe, and stops when told to."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.server import is_local


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
    assert "pip install 'medvlm-r1[serve]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_local_addresses() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.example.org", ""))


def test_help_comes_without_the_extra(command: Any) -> None:
    code, out, _ = command("serve", "--help")
    assert code == 0
    assert "--token" in out
