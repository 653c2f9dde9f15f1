"""The API under many clients, clients that leave, and a full queue."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from served import NAME, Served, picture, serving, user
from test_serve_engine import ENDLESS, MakeEngine, conversation, submit

from medvlm_r1.policy.server import data_url
from medvlm_r1.serving.job import Started


def test_each_of_32_parallel_requests_gets_its_own_reply(served: Served) -> None:
    numbers = range(64)
    client = served.client()

    def ask(number: int, stream: bool) -> tuple[str, float]:
        wanted: dict[str, Any] = {"model": NAME, "temperature": 0, "logprobs": True, "max_tokens": 3 + number % 7}
        messages = user(data_url(picture(number)), text=f"Marker {number}")
        if not stream:
            [choice] = client.chat.completions.create(messages=messages, **wanted).choices
            return choice.message.content, sum(token.logprob for token in choice.logprobs.content)
        text, total = "", 0.0
        for chunk in client.chat.completions.create(messages=messages, stream=True, **wanted):
            text += chunk.choices[0].delta.content or ""
            total += (
                sum(token.logprob for token in chunk.choices[0].logprobs.content) if chunk.choices[0].logprobs else 0
            )
        return text, total

    alone = [ask(number, stream=False) for number in numbers]
    sums = sorted(total for _, total in alone)
    # The marks tell the requests apart, so a reply that went to another one would be seen.
    assert min(np.diff(sums)) > 1e-4
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda number: ask(number, stream=number % 2 == 0), numbers))
    for (text, total), (expected, mark) in zip(together, alone, strict=True):
        assert text == expected
        assert total == pytest.approx(mark, abs=5e-5)


def endless(server: Served) -> dict[str, Any]:
    return {"model": NAME, "messages": user(data_url(picture())), "max_tokens": 10**6, "temperature": 0}


def test_a_client_that_leaves_frees_its_place(make_engine: MakeEngine) -> None:
    with serving(make_engine(max_batch=1), max_new_tokens=10**6) as server:
        client = server.client()
        with client.chat.completions.create(**endless(server), stream=True) as stream:
            assert next(iter(stream)).choices
        short = {**endless(server), "max_tokens": 2}
        assert client.chat.completions.create(**short).usage.completion_tokens == 2
        assert server.engine.counts.cancelled == 1

        # Without a stream: the connection is closed while the answer is awaited.
        body = json.dumps(endless(server)).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not server.engine.running:
                threading.Event().wait(0.001)
        assert client.chat.completions.create(**short).usage.completion_tokens == 2
        assert server.engine.counts.cancelled == 2


def test_a_full_queue_is_429_with_retry_after(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1, queue=1)
    with serving(engine) as server:
        running, events = submit(engine, conversation(0), ENDLESS)
        assert isinstance(events.get(timeout=300), Started)
        waiting, _ = submit(engine, conversation(1), ENDLESS)
        with pytest.raises(openai.RateLimitError) as raised:
            server.client().chat.completions.create(model=NAME, messages=user())
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert raised.value.code == "queue_full"
        running.cancel()
        waiting.cancel()
        # OpenAI's client tries again by itself.
        assert server.client(max_retries=5).chat.completions.create(model=NAME, messages=user()).choices
