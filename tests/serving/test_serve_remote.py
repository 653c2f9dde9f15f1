"""Reading along with a model on a server; the server's chunks are written here."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import GenerationSettings
from medvlm_r1.models.remote import ServerGenerator
from medvlm_r1.serving.medvlm import MedVLM, Question, prepare

ASKED = Question(question="Which organ?", options=("liver", "kidney"))


def chunk(reason: str | None = None, **delta: str) -> Any:
    return SimpleNamespace(
        choices=[SimpleNamespace(delta=SimpleNamespace(**{"content": None, **delta}), finish_reason=reason)]
    )


def remote(monkeypatch: pytest.MonkeyPatch, *chunks: Any) -> MedVLM:
    def create(**wanted: Any) -> Any:
        assert wanted["stream"]
        return nullcontext(iter(chunks))

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    monkeypatch.setattr(ServerGenerator, "client", lambda self: nullcontext(client))
    return MedVLM.load("openai:http://localhost:1/v1#m")


def test_reasoning_that_comes_apart_gets_its_tags_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = remote(
        monkeypatch,
        chunk(content=""),
        chunk(reasoning_content="soft "),
        chunk(reasoning_content="organ"),
        chunk(content="<answer>"),
        chunk(content="B</answer>"),
        SimpleNamespace(choices=[]),
        chunk("stop"),
    )
    stream = model.stream(ASKED)
    assert list(stream) == ["<think>soft ", "organ", "</think><answer>", "B</answer>"]
    assert stream.answer is not None
    assert (stream.answer.option, stream.answer.reasoning) == ("kidney", "soft organ")
    assert (stream.answer.well_formed, stream.answer.truncated, stream.answer.confidence) == (True, False, None)


def test_reasoning_that_is_cut_off_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = remote(monkeypatch, chunk(reasoning="soft"), chunk("length")).stream(ASKED)
    assert "".join(stream) == "<think>soft"
    assert stream.answer is not None
    assert (stream.answer.letter, stream.answer.truncated) == (None, True)


def test_a_stream_left_early_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with remote(monkeypatch, chunk(content="a"), chunk(content="b")).stream(ASKED) as stream:
        assert next(stream) == "a"
    assert list(stream) == []
    assert stream.answer is None


def test_a_server_that_is_not_there_is_told() -> None:
    generator = ServerGenerator(url="http://127.0.0.1:9/v1", name="m", retries=0)
    with pytest.raises(UserError, match="does not answer"):
        next(generator.stream(prepare(ASKED).item, GenerationSettings(max_new_tokens=2)))
