"""`medvlm-r1 serve`: it prints its address, refuses what is not safe, and stops on a signal."""

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

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving import server
from medvlm_r1.serving.medvlm import Closed, LocalBackend, MedVLM, Question
from medvlm_r1.serving.server import Server


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_and_stops_on_a_signal(tiny_policy_dir: Path, sign: signal.Signals) -> None:
    command = [sys.executable, "-m", "medvlm_r1", "serve", str(tiny_policy_dir), "--port", "0"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        printed = process.stdout.readline() + process.stdout.readline()
        assert RESEARCH_USE in printed
        [address] = re.findall(r"Page: (http://127\.0\.0\.1:\d+/)", printed)
        assert httpx.get(address).status_code == 200
        process.send_signal(sign)
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "")
    assert "Stopped." in err
    assert "Traceback" not in err


def test_stopping_ends_an_answer_under_way(endless_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that would never end is stopped after the grace period, and its stream is closed."""
    model = MedVLM(LocalBackend(endless_policy), name="tiny", max_new_tokens=10**6)
    stream = model.stream(Question(question="Which organ?"))
    next(stream)

    async def ends_with_the_answer(self: Any, sockets: Any = None) -> None:
        with pytest.raises(Closed):
            await asyncio.to_thread(list, stream)

    monkeypatch.setattr(server, "_GRACE_SECONDS", 0.01)
    monkeypatch.setattr("uvicorn.Server.shutdown", ends_with_the_answer)
    asyncio.run(Server(FastAPI(), started=print, stop=model.close).shutdown())


def test_the_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setattr(server, "discard_uploads", lambda: None)
    serving = Server(FastAPI(), started=print, stop=print)
    serving.handle_exit(signal.SIGINT, None)
    assert (serving.should_exit, codes) == (True, [])
    serving.handle_exit(signal.SIGINT, None)
    assert (codes, capsys.readouterr().err) == ([130], "Stopped at once.\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["phantom-base", "--host", "0.0.0.0"], 2, "--token"),
        (["phantom-base", "--host", "::"], 2, "--token"),
        (["phantom-base", "--host", "example.org"], 2, "--token"),
        (["phantom-base", "--token", "short"], 2, "at least 16"),
        (["phantom-base", "--host", "203.0.113.7", "--token", "x" * 16], 1, "cannot be used"),
        (["phantom-base", "--port", "TAKEN"], 1, "choose another --port"),
        (["no-such-model", "--port", "0"], 1, "No model folder"),
    ],
)
def test_what_is_not_safe_or_not_there_is_refused(command: Any, arguments: list[str], code: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        seen, _, err = command("serve", *(taken if word == "TAKEN" else word for word in arguments))
    assert seen == code
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "gradio"])
def test_a_missing_extra_names_what_to_install(missing: str) -> None:
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
