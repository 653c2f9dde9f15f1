"""The HTTP API with OpenAI's own client, unchanged, against a real server."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import openai
import pydicom
import pytest
from pydicom.data import get_testdata_file
from served import NAME, Served, picture, user

from medvlm_r1.dialogue.prompt import render_prompt
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.policy.server import data_url
from medvlm_r1.serving.medvlm import MedVLM, Question, prepare

OPTIONS = ("liver", "kidney")


def test_a_plain_request(served: Served) -> None:
    reply = served.client().chat.completions.create(model=NAME, messages=user(text="Hello"), temperature=0)
    [choice] = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert reply.usage.completion_tokens == 12
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12
    assert reply.notice == RESEARCH_USE


def test_a_temperature_too_small_to_divide_by_is_greedy(served: Served) -> None:
    wanted: dict[str, Any] = {"model": NAME, "messages": user(text="Hello")}
    cold, greedy = (served.client().chat.completions.create(**wanted, temperature=t) for t in (5e-324, 0))
    assert cold.choices[0].message.content == greedy.choices[0].message.content


def test_the_reply_is_the_one_of_python_and_of_the_stream(served: Served) -> None:
    asked = Question(image=picture(3), question="Which organ is shown?", options=OPTIONS)
    text = prepare(asked).item.prompt[0]["content"][-1]["text"]
    wanted: dict[str, Any] = {"model": NAME, "messages": user(data_url(picture(3)), text=text), "temperature": 0}
    client = served.client()
    expected = served.medvlm.ask_batch([asked])[0].text
    assert client.chat.completions.create(**wanted).choices[0].message.content == expected
    chunks = list(client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    told = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert told[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in told) == expected
    # Piece by piece, not all at the end.
    assert sum(bool(choice.delta.content) for choice in told) > 3
    assert [choice.finish_reason for choice in told if choice.finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == 12
    assert {chunk.notice for chunk in chunks} == {RESEARCH_USE}
    # And of a project's own client of such servers.
    with MedVLM.load(f"openai:{served.url}/v1#{NAME}", max_new_tokens=12) as remote:
        again = remote.ask_batch([asked])[0]
        assert (again.text, again.confidence, again.truncated) == (expected, None, True)
        with remote.stream(asked) as stream:
            assert "".join(stream) == expected
        assert stream.answer == again


def test_four_completions(served: Served) -> None:
    client = served.client()
    wanted: dict[str, Any] = {"model": NAME, "messages": user(data_url(picture())), "n": 4, "seed": 5}
    reply = client.chat.completions.create(**wanted)
    texts = [choice.message.content for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in client.chat.completions.create(**wanted).choices]
    streamed = [""] * 4
    for chunk in client.chat.completions.create(**wanted, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    assert reply.usage.completion_tokens == 48


def test_logprobs(served: Served) -> None:
    wanted: dict[str, Any] = {"model": NAME, "messages": user(), "temperature": 0, "logprobs": True, "top_logprobs": 2}
    [choice] = served.client().chat.completions.create(**wanted).choices
    content = choice.logprobs.content
    assert len(content) == 12
    for token in content:
        assert [token.token, token.logprob] == [token.top_logprobs[0].token, token.top_logprobs[0].logprob]
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = served.client().chat.completions.create(**wanted, stream=True)
    told = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token.logprob for one in told if one for token in one.content] == [token.logprob for token in content]


def test_stop_and_max_completion_tokens(served: Served) -> None:
    client = served.client()
    wanted: dict[str, Any] = {"model": NAME, "messages": user(), "temperature": 0}
    whole = client.chat.completions.create(**wanted).choices[0].message.content
    [choice] = client.chat.completions.create(**wanted, stop=[whole[3:6]]).choices
    assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(whole[3:6])], "stop")
    short = client.chat.completions.create(**wanted, max_completion_tokens=3, max_tokens=7)
    assert short.usage.completion_tokens == 3
    assert client.chat.completions.create(**wanted, max_tokens=5000).usage.completion_tokens == 12


def test_a_dicom_and_two_images_in_a_request(served: Served) -> None:
    file = get_testdata_file("CT_small.dcm")
    with open(file, "rb") as stream:
        dicom = "data:application/dicom;base64," + base64.b64encode(stream.read()).decode()
    wanted: dict[str, Any] = {"model": NAME, "temperature": 0}
    client = served.client()
    both = client.chat.completions.create(**wanted, messages=user(dicom, data_url(picture())))
    asked = Question(image=[pydicom.dcmread(file), picture()], question="Which organ?", template="answer-only")
    text = prepare(asked).item.prompt[0]["content"][-1]["text"]
    same = client.chat.completions.create(**wanted, messages=user(dicom, data_url(picture()), text=text))
    assert same.choices[0].message.content == served.medvlm.ask_batch([asked])[0].text
    assert both.usage.prompt_tokens > 0


def test_requests_in_the_manner_of_evaluation_suites(served: Served) -> None:
    """lmms-eval: system and user turns, parts in any order; VLMEvalKit: parts in the system turn, an image detail."""
    url = data_url(picture())
    image = {"type": "image_url", "image_url": {"url": url}}
    lmms = {
        "model": NAME,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": [image, {"type": "text", "text": "Which organ?\nA. liver\nB. kidney"}]},
        ],
        "max_tokens": 6,
        "temperature": 0,
    }
    detailed = {"type": "image_url", "image_url": {"url": url.replace("png", "jpeg"), "detail": "low"}}
    kit = {
        "model": NAME,
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Answer with a letter."}]},
            {"role": "user", "content": [{"type": "text", "text": "Which organ?"}, detailed]},
            {"role": "assistant", "content": "A"},
            {"role": "user", "content": "Are you sure?"},
        ],
        "max_tokens": 6,
        "n": 1,
        "temperature": 0,
        "top_p": None,
        "user": "somebody",
    }
    for body in (lmms, kit):
        reply = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=300)
        assert reply.status_code == 200
        assert reply.json()["choices"][0]["message"]["content"]
        assert reply.headers["x-research-use"] == RESEARCH_USE


def test_addresses_and_models(served: Served) -> None:
    client = served.client()
    [model] = client.models.list().data
    assert (model.id, model.notice) == (NAME, RESEARCH_USE)
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another/one")
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{served.url}/nowhere").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{served.url}/v1/chat/completions").status_code == 405
    elsewhere = httpx.get(f"{served.url}/v1/models", headers={"Host": "example.org"})
    assert elsewhere.status_code == 421


def test_metrics_count_and_repeat_nothing(served: Served) -> None:
    question = "Ganz-eigene-Frage"
    served.client().chat.completions.create(model=NAME, messages=user(text=question))
    httpx.get(f"{served.url}/v1/models/{question}")
    text = httpx.get(f"{served.url}/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['medvlm_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert float(figures["medvlm_generated_tokens_total"]) >= 12
    assert float(figures["medvlm_running_completions"]) == 0
    assert question not in text


def test_a_conversation_is_rendered_as_in_training(served: Served) -> None:
    from medvlm_r1.data.sample import Sample

    asked = Question(image=picture(), question="Which organ is shown?", options=OPTIONS)
    sample = Sample(
        id="x", images=("images/x",), question=asked.question, options=OPTIONS, answer="liver", modality="CT"
    )
    [turn] = prepare(asked).item.prompt
    assert turn["content"] == [{"type": "image"}, {"type": "text", "text": render_prompt(sample)}]
    stream = io.BytesIO()
    picture().save(stream, "BMP")
    bmp = "data:image/bmp;base64," + base64.b64encode(stream.getvalue()).decode()
    texts = {
        served.client()
        .chat.completions.create(model=NAME, messages=user(url), temperature=0)
        .choices[0]
        .message.content
        for url in (bmp, data_url(picture()))
    }
    assert len(texts) == 1
