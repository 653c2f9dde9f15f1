"""Run commands without the packages of any extra; `SERVER` in them is a server that answers A.

Reads one command per line from stdin. Prints exit code and output of each as one line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
from pathlib import Path

OPTIONAL = (
    *("accelerate", "datasets", "huggingface_hub", "peft", "safetensors", "tensorboard", "tokenizers"),
    *("torch", "torchvision", "transformers", "trl", "fastapi", "gradio", "starlette", "uvicorn"),
)


def main() -> None:
    """Run the commands of stdin."""
    # An import of a name that is None fails as if the package were not installed.
    sys.modules.update(dict.fromkeys(OPTIONAL))  # type: ignore[arg-type]
    sys.path.append(str(Path(__file__).parents[1]))
    from chat_server import Server
    from medvlm_r1.cli import main as cli

    model = f"openai:{Server().url}#m"
    for line in sys.stdin:
        sys.argv = ["medvlm-r1", *shlex.split(line.replace("SERVER", model))]
        code: object = 0
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
            try:
                cli.main()
            except SystemExit as exit_:
                code = exit_.code
        print(json.dumps([code, output.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
