"""A server with OpenAI's chat interface in this process, which replies what a test wants."""

from __future__ import annotations

import json
import math
import re
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
    """Answers each request with what `reply` says, and `/tokenize` with what `tokenize` says; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.reply: Reply = lambda _: (200, completion("<think>seen</think><answer>A</answer>"))
        self.tokenize: Reply = lambda _: (404, {"error": {"message": "Not Found"}})
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
                status, answer = outer.tokenize(body) if self.path == "/tokenize" else outer.reply(body)
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
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def chats(self) -> list[dict[str, Any]]:
        """The requests for completions."""
        return [body for body in self.requests if "messages" in body]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def item(text: str, color: int = 0) -> GenerationInput:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return GenerationInput(prompt=prompt, images=[Image.new("RGB", (5, 4), (color, 0, 0))])


METHODS = ("logprob_token_ids", "allowed_token_ids", "structured_outputs", "top_logprobs")
WELL = "<think>It is seen. It is clear.</think><answer>A</answer>"


@dataclass
class Vllm:
    """The replies of a server with vLLM's fields, or without some of them."""

    methods: tuple[str, ...] = METHODS
    """Fields for log-probabilities that it has; it ignores the others."""
    refuses: tuple[str, ...] = ()
    """Fields that it refuses with status 400."""
    template: str = "plain"
    """"opens" the reasoning, "strips" it from a prefill, or "ignores" that a prefill is to be continued."""
    tokenizer: str = "words"
    """"joins" `>` with a letter, takes all letters for the same ("letterless"), or has another first token for each
    length of the text ("drifts")."""
    parser: bool = False
    """Whether reasoning is returned separately."""
    counts: bool = True
    """Whether the numbers of tokens are reported."""
    samples: int = 99
    """Most completions of one request."""
    text: str = WELL
    """The completion, less the prefill."""

    def serve(self, server: Server) -> None:
        server.reply, server.tokenize = self.reply, self.tokenize

    def tokens(self, text: str) -> list[str]:
        joined = ">[A-J]|<answer(?=>[A-J]|$)|" if self.tokenizer == "joins" else ""
        return re.findall(joined + r"</?\w+>|\w+|.|\n", text)

    def id(self, token: str) -> int:
        return sum(ord(character) << 7 * index for index, character in enumerate(token))

    def tokenize(self, body: dict[str, Any]) -> tuple[int, Any]:
        tokens = self.tokens(body["prompt"])
        if self.tokenizer == "letterless":
            tokens = ["?" if token in "ABCDEFGHIJ" else token for token in tokens]
        if self.tokenizer == "drifts":
            tokens[0] = str(len(body["prompt"]))
        return 200, {"tokens": [self.id(token) for token in tokens]}

    def logprobs(self, prefill: str) -> dict[str, float]:
        """Of 25 words and, less probable than those except after the answer tag, the letters."""
        letters = {(">" if self.tokenizer == "joins" else "") + "ABCDEFGHIJ"[i]: -0.1 * i for i in range(10)}
        if not prefill.endswith(("<answer>", "<answer")):
            letters = {token: value - 40 for token, value in letters.items()}
        logits = {f"w{i}": -2.0 - i for i in range(25)} | letters
        total = math.log(sum(map(math.exp, logits.values())))
        return {token: value - total for token, value in logits.items()}

    def scored(self, body: dict[str, Any], prefill: str) -> list[tuple[str, float]]:
        """The tokens with the log-probabilities that a request wants."""
        logprobs = self.logprobs(prefill)
        wanted: dict[str, Any] = {name: body[name] for name in self.methods if name in body}
        allowed = wanted.get("structured_outputs", {}).get("choice") or [
            token for token in logprobs if self.id(token) in wanted.get("allowed_token_ids", map(self.id, logprobs))
        ]
        total = sum(math.exp(logprobs[token]) for token in allowed)
        logprobs = {t: v - math.log(total) if t in allowed else -9999.0 for t, v in logprobs.items()}
        ranked = sorted(logprobs.items(), key=lambda pair: -pair[1])
        if ids := wanted.get("logprob_token_ids"):
            return [ranked[0], *(pair for pair in ranked if self.id(pair[0]) in ids)]
        return [ranked[0], *ranked[: wanted.get("top_logprobs", 0)]]

    def reply(self, body: dict[str, Any]) -> tuple[int, Any]:
        if refused := [name for name in self.refuses if name in body]:
            return 400, {"error": {"message": f"Unrecognized request argument supplied: {refused[0]}"}}
        *_, last = body["messages"]
        prefill = last["content"] if last["role"] == "assistant" else ""
        rendered = prefill.split("</think>")[-1] if self.template == "strips" else prefill
        opening = "<think>" if self.template == "opens" else ""
        if not (rendered.startswith(opening) and prefill):
            rendered = opening + rendered
        if prefill and self.template == "ignores":
            rendered += "<end><assistant>"
        text = self.text.removeprefix(prefill or opening)
        reasoning, _, answer = text.rpartition("</think>") if self.parser else ("", "", text)
        n_tokens = len(self.tokens(text))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        choice["message"] |= {"content": answer, **({"reasoning": reasoning} if self.parser else {})}
        if body.get("return_token_ids"):
            choice["token_ids"] = [*range(n_tokens + 1)]
        if body.get("logprobs"):
            ids = body.get("return_tokens_as_token_ids")
            entries = [
                {"token": f"token_id:{self.id(token)}" if ids else token, "logprob": value}
                for token, value in self.scored(body, prefill)
            ]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries[1:]}]}
        choices = [choice] * min(body.get("n", 1), self.samples)
        usage = {
            "prompt_tokens": 9 + len(self.tokens(rendered)),
            "completion_tokens": len(choices) * (n_tokens + 1),
        }
        return 200, {"choices": choices, **({"usage": usage} if self.counts else {})}
