"""Run commands without the packages of any extra; `SERVER` in them is a server that answers A.

Reads one command per line from stdin. Prints exit code and output of each as one line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OPTIONAL = (
    *("accelerate", "datasets", "huggingface_hub", "peft", "safetensors", "tensorboard", "tokenizers"),
    *("torch", "torchvision", "transformers", "trl", "fastapi", "gradio", "starlette", "uvicorn"),
)
COMPLETION = {
    **{"id": "1", "object": "chat.completion", "created": 0, "model": "m"},
    "choices": [
        {
            **{"index": 0, "finish_reason": "stop"},
            "message": {"role": "assistant", "content": "<think>It is bright.</think><answer>A</answer>"},
        }
    ],
    "usage": {"completion_tokens": 9, "prompt_tokens": 1, "total_tokens": 10},
}


class AnswersA(BaseHTTPRequestHandler):
    """The same completion for every request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(COMPLETION).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def main() -> None:
    """Run the commands of stdin."""
    # An import of a name that is None fails as if the package were not installed.
    sys.modules.update(dict.fromkeys(OPTIONAL))  # type: ignore[arg-type]
    from medvlm_r1.cli import main as cli

    http = ThreadingHTTPServer(("127.0.0.1", 0), AnswersA)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    model = f"openai:http://127.0.0.1:{http.server_address[1]}/v1#m"
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
