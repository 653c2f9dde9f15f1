"""Worker processes end with their parent, however it ends. Their pipe shows it: it closes when the last has gone."""

import os
import signal
import subprocess
import sys

SCRIPT = """
import os, signal, sys
from medvlm_r1.data.workers import image_workers

def work(number):
    os.write(1, b"%d\\n" % os.getpid())
    if sys.argv[1] == "forever":
        signal.pause()
    sum(range(1_000_000))

if __name__ == "__main__":
    # The tests may be run where Ctrl-C is ignored, as in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with image_workers() as pool:
        os.write(1, b"%d\\n" % pool._max_workers)
        list(pool.map(work, range(100_000)))
"""


def start(length: str) -> "subprocess.Popen[bytes]":
    """Begin work; come back when every worker is at it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, length], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    workers = int(process.stdout.readline())
    seen: set[bytes] = set()
    while len(seen) < workers:
        line = process.stdout.readline()
        assert line
        seen.add(line)
    return process


def test_workers_do_not_outlive_a_parent_that_was_killed() -> None:
    process = start("forever")
    process.kill()
    # Returns only when every worker has closed its end.
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_stops_the_work_without_a_traceback_of_the_workers() -> None:
    process = start("short")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode not in (0, None)
    assert errors.count(b"KeyboardInterrupt") == 1
    assert b"ForkProcess" not in errors
