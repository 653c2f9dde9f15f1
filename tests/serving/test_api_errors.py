"""What the API refuses, and how it says so."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from served import NAME, Served, picture, serving, user
from test_serve_engine import MakeEngine

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.policy.server import data_url
from medvlm_r1.serving.chat_prompt import Limits

GOOD = data_url(picture())
BOMB = Image.new("1", (9000, 5000))


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "gpt-5"}, 404, "No such model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": user("https://example.org/x.png")}, 400, "data URI"),
        ({"messages": user("file:///etc/passwd")}, 400, "data URI"),
        ({"messages": user("/etc/passwd")}, 400, "data URI"),
        ({"messages": user("data:image/png,plain")}, 400, "base64"),
        ({"messages": user("data:image/png;base64,!!!")}, 400, "base64"),
        ({"messages": user("data:image/png;base64,aGVsbG8=")}, 400, "not a PNG"),
        ({"messages": user(GOOD[: len(GOOD) // 2 // 4 * 4])}, 400, "messages[0].content[0]"),
        ({"messages": user(data_url(BOMB))}, 413, "megapixels"),
        ({"messages": user(*[GOOD] * 9)}, 413, "more than 8 images"),
        ({"messages": user(text="x" * 200_001)}, 413, "characters"),
        ({"messages": user(text="<|image_pad|>")}, 400, "control token"),
        ({"messages": user(data_url(Image.new("RGB", (1, 999))))}, 400, "aspect ratio"),
        ({"messages": [{"role": "system", "content": user(GOOD)[0]["content"]}]}, 400, "a user's turn"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]}, 400, "messages[0].content[0]"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 9}, 400, "at most 8"),
        ({"top_logprobs": 3}, 400, "logprobs"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not offered"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not offered"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openai_s_shape(
    served: Served, changes: dict[str, Any], status: int, said: str, stream: bool
) -> None:
    wanted = {"model": NAME, "messages": user(), "stream": stream} | changes
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=wanted, timeout=300)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"]
    assert reply.headers["x-research-use"] == RESEARCH_USE
    known = {key: wanted.pop(key) for key in ("model", "messages")}
    with pytest.raises(openai.APIStatusError) as raised:
        served.client().chat.completions.create(**known, extra_body=wanted)
    assert raised.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": NaN}',
        b"[" * 100_000,
        b"1" * 5000,
        b'{"seed":' + b"9" * 400 + b"}",
    ],
)
def test_a_body_that_is_no_request(served: Served, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers, timeout=300)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_called_json_is_told_what_to_send(served: Served) -> None:
    body = json.dumps({"model": NAME, "messages": user()}).encode()
    for headers in ({}, {"content-type": "text/plain"}):
        reply = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers, timeout=300)
        assert reply.status_code == 400
        assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_half_a_character_is_refused(served: Served) -> None:
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "\ud800"}]})
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{served.url}/v1/chat/completions", content=body, headers=headers, timeout=300)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "messages[0].content"


def test_too_large_a_body_is_told_so(make_engine: MakeEngine) -> None:
    with serving(make_engine(), limits=Limits(body=10_000)) as server:
        with pytest.raises(openai.APIStatusError) as raised:
            server.client().chat.completions.create(model=NAME, messages=user(text="x" * 3_000_000))
        assert raised.value.status_code == 413
        assert "code" in raised.value.response.json()["error"]

        def pieces() -> Any:
            yield from [b'{"model": "', *[b"x" * 5_000] * 100, b'"}']

        headers = {"content-type": "application/json"}
        chunked = httpx.post(f"{server.url}/v1/chat/completions", content=pieces(), headers=headers)
        assert chunked.status_code == 413
        assert "over" in chunked.json()["error"]["message"]


def test_a_token_is_wanted_everywhere_but_at_health(make_engine: MakeEngine) -> None:
    token = "0123456789-abcdef"
    with serving(make_engine(), token=token) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/", "/v1/chat/completions", "/nowhere"):
            reply = httpx.get(server.url + path)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key=token + "x").models.list()
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert server.client(api_key=token).models.list().data[0].id == NAME
        # A browser is asked by its own means.
        reply = httpx.get(server.url, headers={"Accept": "text/html"})
        assert reply.headers["www-authenticate"].startswith("Basic")
        assert httpx.get(f"{server.url}/v1/models", auth=("anybody", token)).status_code == 200
        assert httpx.get(f"{server.url}/v1/models", auth=("anybody", "wrong")).status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Basic !"}).status_code == 401


def test_a_model_that_fails_is_500_without_what_was_asked(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Ganz-eigene-Frage")

    monkeypatch.setattr("medvlm_r1.serving.rows.Rows.step", fail)
    with serving(make_engine()) as server:
        for stream in (False, True):
            with pytest.raises(openai.APIError) as raised:
                list(server.client().chat.completions.create(model=NAME, messages=user(), stream=stream))
            assert "RuntimeError" in str(raised.value)
            assert "Ganz-eigene-Frage" not in str(raised.value) + caplog.text


def test_nothing_asked_is_logged(served: Served, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(0):
        caplog.clear()
        text = "Ganz-eigene-Frage"
        httpx.post(
            f"{served.url}/v1/chat/completions?x={text}",
            json={"model": NAME, "messages": user("data:image/png;base64,aGVsbG8=", text=text)},
            headers={"X-Name": text},
        )
        httpx.post(f"{served.url}/v1/chat/completions", json={"model": NAME, "messages": user(text=text)}, timeout=300)
        ours = [record for record in caplog.records if record.name.startswith(("medvlm", "uvicorn", "fastapi"))]
    assert not any(text in record.getMessage() for record in ours)
    assert text not in "".join(capfd.readouterr())
