"""A server with OpenAI's chat interface in this process, which replies what a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from medvlm_r1.models.generate import GenerationInput, GenerationSettings

Reply = Callable[[dict[str, Any]], tuple[int, Any]]
SETTINGS = GenerationSettings(max_new_tokens=20)


def completion(text: Any, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"completion_tokens": 7, "prompt_tokens": 1, "total_tokens": 8},
    }


@dataclass
class Raw:
    """A reply byte by byte."""

    body: bytes
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    """Length that the header claims."""


class Server:
    """Answers each request with what `reply` says; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.reply: Reply = lambda _: (200, completion("<think>seen</think><answer>A</answer>"))
        self.busy = self.most = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.paths.append(self.path)
                status, answer = outer.reply(body)
                with lock:
                    outer.busy -= 1
                raw = answer if isinstance(answer, Raw) else Raw(json.dumps(answer).encode())
                self.send_response(status)
                self.send_header("Content-Type", raw.type)
                # The client obeys; without it, tests of retries would wait.
                self.send_header("retry-after-ms", "1")
                self.send_header("Content-Length", str(len(raw.body) if raw.promised is None else raw.promised))
                for name, value in raw.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def item(text: str, color: int = 0) -> GenerationInput:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return GenerationInput(prompt=prompt, images=[Image.new("RGB", (5, 4), (color, 0, 0))])
