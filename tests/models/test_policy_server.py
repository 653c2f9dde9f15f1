"""A model on a server, against a real HTTP server in this process."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.generate import GenerationInput, GenerationSettings
from medvlm_r1.models.remote import ServerGenerator

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


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def item(text: str, color: int = 0) -> GenerationInput:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    return GenerationInput(prompt=prompt, images=[Image.new("RGB", (5, 4), (color, 0, 0))])


def test_text_image_and_settings_are_sent_and_the_answer_comes_back(server: Server) -> None:
    generator = ServerGenerator.parse(f"openai:{server.url}#org/name")
    (found,) = generator.generate([item("Which organ?", color=77)], SETTINGS)
    assert (found.text, found.n_tokens, found.truncated) == ("<think>seen</think><answer>A</answer>", 7, False)
    (request,) = server.requests
    assert server.paths == ["/v1/chat/completions"]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("org/name", 20, 0.0)
    assert (request["top_p"], request["top_k"], request["repetition_penalty"]) == (1.0, -1, 1.0)
    image, text = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "Which organ?"}
    head, data = image["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.size, picture.getpixel((0, 0))) == ((5, 4), (77, 0, 0))


def test_answers_stand_in_the_order_of_the_questions_and_few_are_under_way(server: Server) -> None:
    server.reply = lambda body: (200, completion(body["messages"][0]["content"][1]["text"]))
    generator = ServerGenerator(url=server.url, name="m", concurrency=3)
    found = generator.generate([item(f"question {i}") for i in range(20)], SETTINGS)
    assert [one.text for one in found] == [f"question {i}" for i in range(20)]
    assert server.most <= 3


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_the_fields_of_vllm_is_asked_without_them(server: Server, status: int) -> None:
    refused = (status, {"error": {"message": "Unrecognized request argument supplied: top_k"}})
    server.reply = lambda body: refused if "top_k" in body else (200, completion("A"))
    assert ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)[0].text == "A"
    assert [request["top_p"] for request in server.requests] == [1.0, 1.0]


def test_a_busy_server_is_asked_again(server: Server) -> None:
    statuses = iter([429, 503, 500])
    server.reply = lambda _: (next(statuses, 200), completion("A"))
    assert ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)[0].text == "A"
    assert len(server.requests) == 4


def test_a_cut_answer_is_marked_and_reasoning_handed_over_apart_gets_its_tags(server: Server) -> None:
    server.reply = lambda _: (200, completion("<answer>B</answer>", "length", reasoning_content="It is B."))
    (found,) = ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)
    assert found.truncated
    assert found.text == "<think>It is B.</think><answer>B</answer>"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        # A chat template of the server opened the reasoning, and no reasoning parser runs there.
        ("It is B.</think>\n<answer>B</answer>", "<think>It is B.</think>\n<answer>B</answer>"),
        ("<think>It is B.</think><answer>B</answer>", "<think>It is B.</think><answer>B</answer>"),
        ("<answer>B</answer>", "<answer>B</answer>"),
    ],
)
def test_a_reasoning_that_the_server_s_template_opens_gets_its_tag(server: Server, content: str, text: str) -> None:
    server.reply = lambda _: (200, completion(content))
    (found,) = ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)
    assert found.text == text


def test_refusals_say_status_and_reason(server: Server) -> None:
    server.reply = lambda _: (404, {"error": {"message": "no model m here"}})
    with pytest.raises(UserError, match=r"404.*no model m here"):
        ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="does not answer"):
        ServerGenerator(url="http://127.0.0.1:9/v1", name="m", retries=0).generate([item("q")], SETTINGS)


@pytest.mark.parametrize(
    "name", ["openai:", "openai:http://host/v1", "openai:host#m", "openai:ftp://host#m", "http://h#m"]
)
def test_a_name_of_another_form_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match="openai:URL#NAME"):
        ServerGenerator.parse(name)


def test_an_evaluation_goes_on_after_the_server_died(server: Server, data_dir: Path, tmp_path: Path) -> None:
    model = f"openai:{server.url}#m"

    def dies(body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.requests) > 4:
            return 400, {"error": {"message": "gone"}}
        return 200, completion("<think>seen</think><answer>A</answer>")

    server.reply = dies
    with pytest.raises(UserError, match="gone"):
        evaluate(model, data_dir, tmp_path / "run", batch_size=2)
    kept = len((tmp_path / "run" / "answers.jsonl").read_text().splitlines())
    assert kept == 4
    server.requests.clear()
    server.reply = lambda _: (200, completion("<think>seen</think><answer>A</answer>"))
    results = evaluate(model, data_dir, tmp_path / "run", batch_size=2)
    assert len(server.requests) == 4
    assert results["accuracy"]["MRI"]["n"] == 4
    assert results["model_fingerprint"] == f"server {model}"
