"""Runs that are killed: `killed_run.py LOG POLICY` imports everything once, and lives and dies in forked processes.

A line of JSON on stdin is one life: {"verb": "grpo", "sft", "eval" or "audit", "arguments": ..., "kill": {kind:
number}}. The fork takes SIGKILL before its n-th event of a kind: `file` (a file of the run folder is opened, made,
renamed, removed or forced to disk), `module` (a module of the model runs) or `update` (the optimizer takes a step). One
line of JSON answers: how it ended and how many events of each kind it saw. What an evaluation or an audit asks of the
model is noted in `OUT.asked`, a line for each item or variant.
"""

import gc
import json
import os
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path

from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from medvlm_r1.audit.backends import LazyAuditBackend
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.evaluation import run
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.load import load_policy
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.sft import train_sft

_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Moments:
    """Counts events and ends the process before the chosen one."""

    def __init__(self, folder, kill):
        self.seen = Counter()
        self._folder = folder
        self._kill = kill
        self._hook_files()
        register_module_forward_pre_hook(lambda *_: self.count("module"))
        register_optimizer_step_pre_hook(lambda *_: self.count("update"))

    def count(self, kind):
        """One more event of a kind is about to happen."""
        self.seen[kind] += 1
        if self._kill.get(kind) == self.seen[kind]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _hook_files(self):
        def audit(event, arguments):
            if event in _FILE_EVENTS and arguments and self._inside(arguments[0]):
                self.count("file")

        sys.addaudithook(audit)
        sync = os.fsync

        def fsync(handle):
            self.count("file")
            sync(handle)

        os.fsync = fsync

    def _inside(self, path):
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._folder)


def note_what_is_asked(file):
    """Have evaluations and audits note what they ask the model for, before they do."""
    # Opened before the events are counted, and written past any buffer.
    notes = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noting(method, names):
        def asked(self, wanted, other):
            # An audit hands over what is done already as well.
            done = other if isinstance(other, set) else ()
            noted = [names(item) for index, item in enumerate(wanted) if index not in done]
            os.write(notes, "".join(f"{name}\n" for name in noted).encode())
            return method(self, wanted, other)

        return asked

    run._Setup.answer = noting(run._Setup.answer, lambda row: row[1].id)
    LazyAuditBackend.iterate = noting(LazyAuditBackend.iterate, lambda variant: f"{variant.sample.id} {variant.name}")


def live(verb, arguments, kill, report):
    """One life, in a process of its own; it ends here."""
    code = 0
    note_what_is_asked(arguments["out"] + ".asked")
    moments = Moments(arguments["out"], kill)
    try:
        if verb in ("eval", "audit"):
            (evaluate if verb == "eval" else audit_model)(**arguments)
        else:
            config = load_config(arguments["config"], [f"out={arguments['out']}"])
            (train_grpo if verb == "grpo" else train_sft)(config)
    except BaseException:
        traceback.print_exc()
        code = 1
    os.write(report, json.dumps(moments.seen).encode())
    os._exit(code)


def main():
    """Answer one life after another until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What the runs print goes to the log.
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # What the first run of a process pays for: imports and compiled patterns, and a long list for the collector.
    load_policy(sys.argv[2])
    Image.init()
    gc.freeze()
    for line in sys.stdin:
        life = json.loads(line)
        back, report = os.pipe()
        child = os.fork()
        if child == 0:
            live(life["verb"], life["arguments"], life["kill"], report)
        os.close(report)
        with os.fdopen(back, "rb") as stream:
            seen = stream.read()
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        print(json.dumps({"ended": ended, "seen": json.loads(seen or b"{}")}), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
