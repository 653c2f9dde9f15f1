"""Training runs one after another in the processes of one launch: `engine_run.py CASES`.

CASES is a JSON file of rows with the `config`, the `out` folder and whether SIGTERM is to come (`preempt`).
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import psutil

from medvlm_r1.stopping import Preempted

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import written_run
from runs import At

from benchmarks.engines import shard_on_cpus

ROWS = 8
"""Completions of a step, over all processes."""


def end_job():
    """Send SIGTERM to the script that runs the launcher, and wait until it has passed the signal on to this process."""
    handle = signal.getsignal(signal.SIGTERM)
    arrived = threading.Event()

    def note(*received):
        arrived.set()
        handle(*received)

    signal.signal(signal.SIGTERM, note)
    os.kill(psutil.Process(os.getppid()).ppid(), signal.SIGTERM)
    if not arrived.wait(60):
        raise TimeoutError("The script did not pass SIGTERM on.")


def main(cases):
    shard_on_cpus()
    batch = ROWS // int(os.environ.get("WORLD_SIZE", 1))
    for case in json.loads(Path(cases).read_text()):
        written_run.main(
            case["config"],
            case["out"],
            f"trainer.per_device_train_batch_size={batch}",
            progress=At(2, end_job) if case["preempt"] else None,
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Preempted as stopped:
        print(stopped)
