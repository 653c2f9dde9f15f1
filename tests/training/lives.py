"""The tests' side of `killed_run.py`: runs that are cut short at chosen moments and started again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KILLED = -9
# Files are where a kill could do harm; most moments are within the model.
KINDS = ("file", "file", "module", "update")


@dataclass(frozen=True, slots=True)
class Trial:
    """A run that is to survive: `verb` with `arguments`, in the folder `out`."""

    verb: str
    arguments: dict[str, Any]
    out: Path
    check: Callable[[Path, Path], None]
    """Compares the folder of a run without a break with that of a resumed one."""


class Lives:
    """A process that runs lives, one at a time; use it in a `with` block."""

    def __init__(self, log, policy):
        self._log, self._policy = log, policy

    def __enter__(self):
        command = [sys.executable, str(HERE / "killed_run.py"), str(self._log), str(self._policy)]
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def live(self, trial, kill=None):
        """One life, to its end or to the chosen moment.

        Returns:
            How it ended, and the number of events it saw by kind (none of a killed one).
        """
        arguments = {**trial.arguments, "out": str(trial.out)}
        self._process.stdin.write(json.dumps({"verb": trial.verb, "arguments": arguments, "kill": kill or {}}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["ended"] in (0, KILLED), self._log.read_text(errors="replace")[-4000:]
        return answer["ended"], answer["seen"]


def kill_and_resume(lives, straight, events, out, draw, kills, watch=lambda killed: None):
    """Kill a run at random moments and start it again, so many times; whenever it comes to its end, check it.

    Args:
        lives: The process.
        straight: The same run, which took place without a break.
        events: The number of its events by kind.
        out: The folder of the killed run.
        draw: Chooses the moments.
        kills: How many.
        watch: Called after every life, with whether it was killed.
    """
    trial, killings = replace(straight, out=out), 0
    while True:
        kind = draw.choice([kind for kind in KINDS if events.get(kind)])
        # The last life goes to its end.
        moment = {kind: draw.randint(1, events[kind])} if killings < kills else None
        killed = lives.live(trial, moment)[0] == KILLED
        watch(killed)
        killings += killed
        if killed:
            continue
        trial.check(straight.out, out)
        shutil.rmtree(out)
        if moment is None:
            return
