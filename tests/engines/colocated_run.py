"""A training with vLLM in its process: `colocated_run.py CONFIG PACKAGES`, with the interpreter of vLLM's environment.

What that environment lacks (TRL, PEFT, ...) comes from the folder PACKAGES.
"""

import sys

if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    from medvlm_r1.training.config import load_config
    from medvlm_r1.training.grpo import train_grpo

    train_grpo(load_config(sys.argv[1]))
