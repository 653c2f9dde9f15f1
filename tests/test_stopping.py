"""SIGTERM while questions are asked: what is finished stays, exit code 0, and the same command goes on."""

import json
import os
import signal
import threading

import pytest

from medvlm_r1.audit.store import AuditStore
from medvlm_r1.evaluation.store import AnswerStore
from medvlm_r1.stopping import stop_on_sigterm

COMMANDS = {
    "eval": (("eval",), AnswerStore, "answers.jsonl", "results.json"),
    "audit": (("audit", "model"), AuditStore, "answers.jsonl", "audit.json"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_scheduler_ends_it_and_the_same_command_goes_on(
    tiny_policy_dir, data_dir, tmp_path, command, monkeypatch, tried, name, times
):
    words, store, answers, figures = COMMANDS[name]
    out = tmp_path / "run"
    settings = ("--data", data_dir, "--out", out, "--limit", 4, "--batch-size", 1, "--max-new-tokens", 2)
    append, leave = store.append, store.__exit__
    before = signal.getsignal(signal.SIGTERM)

    def append_and_be_told(self, *given):
        append(self, *given)
        os.kill(os.getpid(), signal.SIGTERM)

    def be_told_again(self, *raised):
        # A launcher hands the signal on to processes that had it already.
        if times == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        leave(self, *raised)

    with monkeypatch.context() as patched:
        patched.setattr(store, "append", append_and_be_told)
        patched.setattr(store, "__exit__", be_told_again)
        code, _, err = command(*words, tiny_policy_dir, *settings)
    assert code == 0
    assert f"Stopped by SIGTERM. Finished work is kept in {out}; re-run to resume." in " ".join(err.split())
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGTERM) is before
    written = (out / answers).read_bytes()
    assert {json.loads(line)["id"] for line in written.splitlines()} == {"q0"}
    assert not (out / figures).exists()
    code, _, err = command(*words, tiny_policy_dir, *settings)
    assert (code, "Traceback" in err) == (0, False)
    assert (out / answers).read_bytes().startswith(written)
    rows = [json.loads(line) for line in (out / answers).read_text().splitlines()]
    assert list(dict.fromkeys(row["id"] for row in rows)) == ["q0", "q1", "q2", "q3"]
    assert len({(row["id"], row["variant"]) for row in rows}) == len(rows)
    assert json.loads((out / figures).read_text())["n"] == 4
    tried("sigterm-asking", 1)


@pytest.fixture
def received():
    """A shell without job control starts what runs in its background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("received")
def test_a_key_pressed_stays_what_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), stop_on_sigterm(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_is_left_alone(tmp_path):
    seen = []

    def work():
        with stop_on_sigterm(tmp_path):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
