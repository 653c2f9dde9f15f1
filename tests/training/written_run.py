"""A GRPO run whose completions are written beforehand, so that runs can be compared: `written_run.py CONFIG OUT`.

It runs alone or under a launcher with several processes.
"""

import sys
import zlib

from accelerate.utils import gather_object

from benchmarks.engines import SHARDED, shard_on_cpus
from benchmarks.replay import replaying
from medvlm_r1.training import counterfactual, loop
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

GROUP = 4


def main(config, out, *overrides, progress=None):
    plain = loop.load_policy

    def load_policy(*args, **kwargs):
        policy = plain(*args, **kwargs)
        end = policy.model.generation_config.eos_token_id

        def completions(prompt):
            start = zlib.crc32(repr(prompt).encode()) % 50
            return [
                [20 + (start + 7 * row + position) % 90 for position in range(1 + row)] + [end] for row in range(GROUP)
            ]

        replaying(policy.model, completions)
        return policy

    loop.load_policy = load_policy
    try:
        train_grpo(load_config(config, [f"out={out}", *overrides]), progress=progress, evaluate=_processes)
    finally:
        loop.load_policy = plain
    print("sharded:", *sorted(SHARDED), sep="\n")


def _processes(policy, step):
    """An evaluation that every process has to call."""
    return {"processes": len(gather_object([policy.model.training]))}


if __name__ == "__main__":
    shard_on_cpus()
    # Policies of random weights answer with no letter: a blank answer is its whole text.
    counterfactual.strict_letter = lambda text: text
    main(*sys.argv[1:])
