"""`bench serve` on a tiny model: a real server, few and short replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medvlm_r1.bench.serve import Mark, _processor_seconds, _resident, serve_lines

Command = Callable[..., tuple[int, str, str]]


def test_replies_under_load_are_those_of_the_idle_server(command: Command, tiny_policy_dir: Path) -> None:
    arguments = ("--clients", 3, "--seconds", 1, "--max-new-tokens", 3, "--json")
    code, out, err = command("bench", "serve", tiny_policy_dir, *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found["clients"] == 3
    assert found["replies"] > 0
    assert (found["wrong"], found["refused"]) == (0, 0)
    assert found["requests"]["different"] == 24
    assert found["ratio"] == pytest.approx(found["replies_per_second"]["all"] / found["replies_per_second"]["one"])
    assert "Loads: 5 of 5" in err


def test_a_server_that_does_not_start_says_why(command: Command) -> None:
    code, out, err = command("bench", "serve", "nowhere", "--clients", 1, "--seconds", 1)
    assert (code, out) == (1, "")
    assert "The server did not start" in err
    assert "No model folder 'nowhere'" in err


def test_the_figures_in_words() -> None:
    found = {
        "clients": 8,
        "seconds": 60.0,
        "replies_per_second": {"one": 2.0, "all": 9.0},
        "tokens_per_second": {"one": 20.0, "all": 90.0},
        "ratio": 4.5,
        "processor_seconds_per_reply": {"one": 0.8, "all": 0.2},
        "replies": 540,
        "wrong": 1,
        "refused": 2,
        "requests": {"different": 24, "marks": 23},
        "memory": {"begin": 2**30, "end": 2**30 + 3 * 2**20},
    }
    text = "\n".join(serve_lines(found))
    for words in ("4.50 times", "540 replies under load, 1 not the request's own, 2 refused", "0.800 for one", "+3 MB"):
        assert words in text
    silent = found | {
        "processor_seconds_per_reply": {"one": None, "all": None},
        "memory": {"begin": None, "end": None},
    }
    assert len(serve_lines(silent)) == 3


def test_a_mark_tells_replies_apart() -> None:
    assert Mark("a", -1.0).fits(Mark("a", -1.0005))
    assert not Mark("a", -1.0).fits(Mark("a", -1.1))
    assert not Mark("a", -1.0).fits(Mark("b", -1.0))


def test_a_process_that_is_gone_has_no_figures() -> None:
    assert _resident(2**30) is None
    assert _processor_seconds(2**30) is None
