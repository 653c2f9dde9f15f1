"""Every command of the README and the start pages runs, in order, in an empty folder; only the sizes differ."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import ROOT, fences, statements

from medvlm_r1.demo import run_demo
from medvlm_r1.errors import RESEARCH_USE
from test_demo import SMALL

Command = Callable[..., tuple[int, str, str]]
LANGUAGES = {"sh", "text", "python", "yaml"}
# What is put behind a command to make it small; of an option given twice the last counts.
SMALLER = {
    "data import phantom": ("--n", "4"),
    "train grpo": ("trainer.max_steps=1", "trainer.per_device_train_batch_size=8"),
    "serve": ("--port", "0"),
}
# The pages are read in this order in one folder: the second goes on with the demo of the first.
JOURNEYS = {"demo": ("README.md", "docs/start/demo.md"), "own data": ("docs/start/your-data.md",)}


def shell(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [statement for language, block in fences(text) if language == "sh" for statement in statements(block)]


@pytest.mark.parametrize("pages", JOURNEYS.values(), ids=JOURNEYS)
def test_every_command_of_a_page_runs(pages, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    # Of a `make` that runs these tests, for the one below.
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    monkeypatch.setitem(run_demo.__kwdefaults__, "sizes", SMALL)
    for page in pages:
        for statement in shell(page):
            run(statement, command)
    written = sorted(path.name for path in tmp_path.rglob("*.html"))
    assert {"report.html", "audit.html"} <= set(written)


@pytest.mark.parametrize("page", [page for pages in JOURNEYS.values() for page in pages])
def test_no_command_stands_where_it_is_not_run(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {language for language, _ in fences(text)} <= LANGUAGES
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"^(?: {4}|\t)\S", outside, re.MULTILINE)
    assert shell(page)


def run(statement, command):
    """Run one statement as the page has it, at a small size."""
    program, *words = shlex.split(statement.splitlines()[0])
    if program == "medvlm-r1":
        medvlm(words, command)
    elif program == "make":
        made = subprocess.run(["make", "-n", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout
        for line in made.splitlines():
            if line.startswith(".venv/bin/medvlm-r1 "):
                medvlm(shlex.split(line)[1:], command)
    elif program == "pip":
        # What `make setup` has installed for the tests already.
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[:2] == ["install", "-e"]
        assert words[2].removeprefix(".[").removesuffix("]") in extras
    elif program == ".":
        assert words == [".venv/bin/activate"]
        assert "VENV := .venv\n" in (ROOT / "Makefile").read_text()
    else:
        done = subprocess.run(["bash", "-e", "-c", statement], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{statement}\n{done.stderr}"


def medvlm(words, command):
    for start, more in SMALLER.items():
        if words[: len(start.split())] == start.split():
            words = [*words, *more]
    if words[0] == "serve":
        served(words)
        return
    code, out, err = command(*words)
    # Nearly alike pictures are for the reader to look at; the page says so.
    allowed = {0, 1} if words[:2] == ["data", "check"] and "--allow-near" not in words else {0}
    assert code in allowed, f"medvlm-r1 {shlex.join(words)}\n{out}\n{err}"


def served(words):
    """Start the server, wait until it says that it is there, and end it with Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, "-m", "medvlm_r1", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        printed = []
        for line in server.stdout:
            printed.append(line.strip())
            if line.strip() == RESEARCH_USE:
                break
        server.send_signal(signal.SIGINT)
        _, err = server.communicate()
    assert server.returncode == 0, err
    assert printed[0].startswith("Page: http://127.0.0.1:")
