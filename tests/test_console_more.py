"""Progress on a terminal and elsewhere, the demo's table, and what is written for machines."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from medvlm_r1 import console, demo, disk
from medvlm_r1.console import progress_bar
from medvlm_r1.errors import RESEARCH_USE


def test_a_terminal_is_shown_a_bar_with_counts_and_note(monkeypatch):
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=100)
    monkeypatch.setattr(console, "stderr_console", lambda: terminal)
    with progress_bar("Answers") as advance:
        advance(0, None)
        advance(3, 8, note="reward 0.50")
        advance(8, 8)
    for words in ("Answers", "8/8", "reward 0.50"):
        assert words in stream.getvalue()


def test_a_log_gets_first_last_and_a_line_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 20.0, 21.0, 22.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar("Items") as advance:
        for done in (0, 1, 2, 3):
            advance(done, 4, note="n")
        advance(4, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["Items: 0 of 4  n", "Items: 2 of 4  n", "Items: 4 of 4"]


@pytest.fixture
def results():
    def stage(percent):
        cell = {"percent": percent, "ci95": [percent - 5, percent + 5]}
        accuracy = {**dict.fromkeys(demo.DOMAINS, cell), "mean": percent}
        return {"accuracy": accuracy, "well_formed": {"percent": 97.0}}

    stages = {name: stage(50.0 + number) for number, name in enumerate(demo.STAGES)}
    return stages | {"seconds": {"grpo": 123.4}}


def test_the_demos_table(results, command, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "run_demo", lambda out, *, seed: results)
    # Figures are not cut where the window is narrow.
    monkeypatch.setenv("COLUMNS", "20")
    code, out, _ = command("demo", "--out", tmp_path)
    assert code == 0
    for words in ("[46.0, 56.0]", "78.22", "grpo 123 s", "not a reproduction of the paper's results", RESEARCH_USE):
        assert words in " ".join(out.split())
    assert f"Report: {tmp_path / 'report.html'}" in out
    code, out, _ = command("demo", "--out", tmp_path, "--json")
    assert (code, json.loads(out)) == (0, results)


def test_pretraining_shows_its_stage_and_names_its_model(command, monkeypatch, tmp_path):
    def build(out, work, *, seed, report):
        report("tower", 3, 9, {"loss": 0.25, "seconds": 4.0})

    monkeypatch.setattr("benchmarks.pretrain.pretrain", build)
    arguments = ("benchmarks.pretrain", "--out", tmp_path / "base", "--work", tmp_path / "work")
    code, out, err = command(*arguments)
    assert (code, out) == (0, f"Model: {tmp_path / 'base'}\n")
    assert "Base model: 3 of 9  tower  loss 0.25\n" in err
    assert json.loads(command(*arguments, "--json")[1]) == {"model": str(tmp_path / "base")}


def test_training_and_export_print_one_object(command, write_config, tmp_path):
    code, out, err = command("train", "sft", "--config", write_config("sft"), "trainer.max_steps=1", "--json")
    assert code == 0, err
    assert json.loads(out) == {"model": str(tmp_path / "run" / "model")}
    code, out, err = command("export", tmp_path / "run", "--out", tmp_path / "published", "--json")
    assert code == 0, err
    assert json.loads(out) == {"folder": str(tmp_path / "published"), "uploaded": None, "notice": RESEARCH_USE}
    code, out, _ = command("report", tmp_path / "run", "--out", tmp_path / "r.html", "--json")
    assert (code, json.loads(out)) == (0, {"report": str(tmp_path / "r.html")})


def test_versions_for_people(command):
    code, out, _ = command("doctor", "--versions")
    assert code == 0
    assert "packages: torch " in out
    assert "{" not in out
    assert "torch" in json.loads(command("doctor", "--versions", "--json")[1])["packages"]


def test_memory_where_the_system_says_little(monkeypatch):
    from benchmarks import process

    assert process.memory_now() > 0
    monkeypatch.setattr(process, "_STATUS", Path("/proc/nowhere/status"))
    assert process.memory_now() == 0
    # getrusage says kilobytes on Linux and bytes on macOS.
    linux = process.peak_memory()
    monkeypatch.setattr("sys.platform", "darwin")
    assert 0 < process.peak_memory() < linux
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    process.reset_peak()


def test_a_disk_that_does_not_force_folders_is_borne(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(22, "Invalid argument")

    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(os, "fsync", refuse)
    disk.sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        disk.sync(tmp_path / "file")
