"""The tests' side of `killed_run.py`: lives of a run, cut short at chosen moments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KILLED = -9
# Files are where a kill could do harm; most moments are within the model.
KINDS = ("file", "file", "module", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How one life ended, and the events it saw by kind (none of a killed one)."""

    ended: int
    seen: dict[str, int]


class Lives:
    """A process that runs lives, one at a time; use it in a `with` block."""

    def __init__(self, log, policy):
        self._log = log
        self._policy = policy

    def __enter__(self):
        command = [sys.executable, str(HERE / "killed_run.py"), str(self._log), str(self._policy)]
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def live(self, verb, arguments, kill=None):
        """One life, to its end or to the chosen moment."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, "arguments": arguments, "kill": kill or {}}) + "\n")
        self._process.stdin.flush()
        life = Life(**json.loads(self._process.stdout.readline()))
        assert life.ended in (0, KILLED), self._log.read_text(errors="replace")[-4000:]
        return life


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A run that is to survive: `verb` with `arguments`, its folder in `out` among them."""

    verb: str
    arguments: dict[str, Any]

    @property
    def out(self):
        """The run folder."""
        return Path(self.arguments["out"])


def kill_and_resume(lives, trial, straight, draw, kills, check):
    """Kill a run at random moments and start it again, so many times; whenever it comes to its end, check it.

    Args:
        lives: The process.
        trial: The run.
        straight: A life of the same run without a break, for the number of its moments.
        draw: Chooses the moments.
        kills: How many.
        check: Called without arguments whenever the run came to its end.

    Returns:
        How many times the run came to its end.
    """
    ends = 0
    killed = 0
    while killed < kills:
        kind = draw.choice([kind for kind in KINDS if straight.seen.get(kind)])
        life = lives.live(trial.verb, trial.arguments, {kind: draw.randint(1, straight.seen[kind])})
        if life.ended == KILLED:
            killed += 1
            continue
        ends += 1
        check()
        shutil.rmtree(trial.out)
    lives.live(trial.verb, trial.arguments)
    check()
    return ends + 1
