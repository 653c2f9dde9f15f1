"""What servers reply, in all the ways they do: an answer is read, anything else is an error that says what came."""

import gzip
import json

import pytest

from chat_server import SETTINGS, Raw, completion, item
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.remote import ServerGenerator

WELL = "<think>seen</think><answer>A</answer>"
HTML = "<html><body><h1>504 Gateway Time-out</h1>" + "<p>nginx</p>" * 500 + "</body></html>"


def ask(server):
    return ServerGenerator(url=server.url, name="m", retries=1, pause=0).generate([item("Which organ?")], SETTINGS)[0]


def changed(**changes):
    """A completion with other fields."""
    return {**completion(WELL), **changes}


def choice(**changes):
    """A completion with other fields of its choice."""
    return changed(choices=[{**completion(WELL)["choices"][0], **changes}])


def parts(*content):
    return completion(list(content))


def text(value, kind="text"):
    return {"type": kind, "text": value}


B, HM = "<answer>B</answer>", "<think>hm</think>"
BODY = json.dumps(completion(WELL)).encode()
READ = {
    "text": (completion(WELL), WELL),
    "empty text": (completion(""), ""),
    "one part": (parts(text(WELL)), WELL),
    "several parts": (parts(text(HM), text(B)), HM + B),
    "parts of Responses": (parts(text(WELL, "output_text")), WELL),
    "bare texts as parts": (parts("<answer>", "C", "</answer>"), "<answer>C</answer>"),
    "no parts": (parts(), ""),
    "thinking part": (parts({"type": "thinking", "thinking": [text("hm")]}, text(B)), HM + B),
    "reasoning_content": (completion(B, reasoning_content="hm"), HM + B),
    "reasoning": (completion(B, reasoning="hm"), HM + B),
    "reasoning as parts": (completion("B", reasoning_content=[text("h"), text("m")]), HM + "B"),
    "reasoning twice": (completion(WELL, reasoning_content="seen"), WELL),
    "both names of reasoning": (completion("B", reasoning="hm", reasoning_content="hm"), HM + "B"),
    "empty reasoning": (completion(WELL, reasoning_content=""), WELL),
    "null reasoning": (completion(WELL, reasoning_content=None), WELL),
    "reasoning that a chat template opened": (completion(f"hm</think>\n{B}"), f"{HM}\n{B}"),
    "answer without reasoning": (completion(B), B),
    "cut off after reasoning": (completion("<answer>B", "length", reasoning_content="hm"), HM + "<answer>B"),
    "reasoning alone": (completion(None, reasoning_content="hm"), HM),
    "reasoning cut off": (completion(None, "length", reasoning_content="hm"), "<think>hm"),
    "null, cut off": (completion(None, "length"), ""),
    "refusal": (completion(None, refusal="I cannot help with that."), "I cannot help with that."),
    "no usage": (changed(usage=None), WELL),
    "usage of another type": (changed(usage="many"), WELL),
    "no finish_reason": (choice(finish_reason=None), WELL),
    "finish_reason of another type": (choice(finish_reason=3), WELL),
    "no role": (choice(message={"content": WELL}), WELL),
    "null error": (changed(error=None), WELL),
    "text/plain": (Raw(BODY, "text/plain"), WELL),
    "no content type": (Raw(BODY, ""), WELL),
    "byte order mark": (Raw(b"\xef\xbb\xbf" + BODY), WELL),
    "compressed": (Raw(gzip.compress(BODY), headers={"Content-Encoding": "gzip"}), WELL),
    "half a surrogate pair": (Raw(json.dumps(completion("\ud83d")).encode()), "\ud83d"),
    "an unknown field": (changed(kv_transfer_params={"a": [1]}), WELL),
    "two choices": (changed(choices=completion(WELL)["choices"] + completion("other")["choices"]), WELL),
}

# A reply, what the error says, and how often it was asked for.
REFUSED = {
    "broken JSON": (Raw(b'{"choices": [{"mess'), "the reply is not JSON: .*mess", 3),
    "empty body": (Raw(b""), r"not JSON: \(empty\)", 3),
    "HTML": (Raw(HTML.encode(), "text/html"), "not JSON: <html>.*504", 3),
    "HTML called JSON": (Raw(HTML.encode()), "not JSON: <html>", 3),
    "events": (Raw(b'data: {"choices": []}\n\ndata: [DONE]\n\n', "text/event-stream"), "not JSON: data:", 3),
    "not UTF-8": (Raw(b'{"a": "\xff\xfe"}'), "not JSON", 3),
    "deep nesting": (Raw(b"[" * 100_000), "not JSON", 3),
    "terminal controls": (Raw(b"\x1b[2J\x07 oops"), r"not JSON: \[2J oops", 3),
    "null": (Raw(b"null"), "not a JSON object: null", 3),
    "a list": ([completion(WELL)], "not a JSON object", 3),
    "a text": ("A", "not a JSON object", 3),
    "a number": (7, "not a JSON object", 3),
    "empty object": ({}, "has no choices", 3),
    "no choices": (changed(choices=[]), "has no choices", 3),
    "null choices": (changed(choices=None), "has no choices", 3),
    "choices as an object": (changed(choices={"0": {}}), "has no choices", 3),
    "a choice that is a text": (changed(choices=["A"]), "has no message", 3),
    "a choice that is null": (changed(choices=[None]), "has no message", 3),
    "text completion": (changed(choices=[{"text": "A"}]), "has no message", 3),
    "no message": (changed(choices=[{"finish_reason": "stop"}]), "has no message", 3),
    "message as a text": (choice(message="A"), "has no message", 3),
    "message as a list": (choice(message=["A"]), "has no message", 3),
    "no content": (choice(message={"role": "assistant"}), "no text .content is null.", 3),
    "null content": (completion(None), "no text .content is null.", 3),
    "error object": ({"error": {"message": "CUDA out of memory", "code": 500}}, "is an error: CUDA out of memory", 3),
    "error text": ({"error": "model not loaded"}, "is an error: model not loaded", 3),
    "error list": ({"error": [{"msg": "x"}]}, "is an error: .*msg", 3),
    "error beside an answer": (changed(error={"message": "overloaded"}), "is an error: overloaded", 3),
    "ended by an error": (choice(finish_reason="error"), "ended the answer with an error", 3),
    "truncated body": (Raw(b'{"choices"', promised=900), "does not answer", 2),
    "broken compression": (Raw(b"no gzip", headers={"Content-Encoding": "gzip"}), "does not answer", 2),
    "a number as content": (completion(7), "content holds a value of type int; wanted text", 1),
    "an object as content": (completion({"type": "text", "text": "A"}), "content holds a part of type 'text'", 1),
    "an image part": (parts({"type": "image_url", "image_url": {}}), "part of type 'image_url'", 1),
    "a part without a text": (parts(text(None)), "part of type 'text'", 1),
    "a null part": (parts(None), "value of type NoneType", 1),
    "a number as reasoning": (completion("A", reasoning_content=7), "reasoning_content holds a value of type int", 1),
    "a tool call": (completion(None, "tool_calls", tool_calls=[{"id": "1"}]), "called a tool", 1),
    "content filter": (completion("<think>The", "content_filter"), "content filter withheld", 1),
}


@pytest.mark.parametrize("name", READ)
def test_an_answer_is_read(server, name):
    reply, expected = READ[name]
    server.reply = lambda _: (200, reply)
    generation = ask(server)
    assert generation.text == expected
    # Words where the server does not count tokens for one completion; without the end token where it was generated.
    uncounted = "usage" in name or name == "two choices"
    assert generation.n_tokens == (1 if uncounted else 7 if "cut off" in name or "finish_reason" in name else 6)
    assert generation.truncated == ("cut off" in name)
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_reply_without_an_answer_is_an_error_that_says_what_came(server, name):
    reply, message, requests = REFUSED[name]
    server.reply = lambda _: (200, reply)
    with pytest.raises(UserError, match=message) as error:
        ask(server)
    text = str(error.value)
    assert server.url in text
    assert len(text) < 800
    assert text.isprintable()
    assert "Which organ?" in text or "does not answer" in text
    assert len(server.requests) == requests


STATUS = {status: f"status {status}: .*nginx" for status in (400, 401, 404, 413, 422, 429, 500, 503)}
STATUS |= dict.fromkeys((302, 307, 308), "redirects to")
STATUS[301] = "redirects to http://elsewhere.invalid/v1, which is not followed"


@pytest.mark.parametrize("status", STATUS)
def test_other_statuses_are_told_in_few_words_and_no_redirect_is_followed(servers, status):
    server, other = servers
    target = "http://elsewhere.invalid/v1" if status == 301 else f"{other.url}/chat/completions"
    server.reply = lambda _: (status, Raw(HTML.encode(), "text/html", {"Location": target}))
    with pytest.raises(UserError, match=STATUS[status]) as error:
        ask(server)
    assert len(str(error.value)) < 800
    # Images and questions go nowhere but to the address that was named.
    assert other.requests == []
    assert len(server.requests) == (2 if status in (429, 500, 503) else 1)


def events(*chunks):
    body = "".join(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks)
    return Raw(body.encode(), "text/event-stream")


def delta(reason=None, **fields):
    return {"id": "1", "choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


STREAMS = {
    "HTML": (Raw(HTML.encode(), "text/html"), "not a stream of chat completions"),
    "nothing": (Raw(b"", "text/event-stream"), "not a stream of chat completions"),
    "broken JSON": (events(delta(content="A"), '{"choices": [{'), "the stream broke off"),
    "an error": (events(delta(content="A"), {"error": {"message": "out of memory"}}), "out of memory"),
    "null choices": (events({"choices": None}, "[DONE]"), "not a stream of chat completions"),
    "a number as content": (events(delta(content=7)), "content holds a value of type int"),
    "a choice that is a text": (events({"choices": ["A"]}, "[DONE]"), ""),
    "content filter": (events(delta(content="A"), delta("content_filter")), "content filter withheld"),
    "cut off": (
        Raw(events(delta(content="A")).body, "text/event-stream", promised=9000),
        "the stream broke off|does not answer",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_broken_stream_is_an_error(server, name):
    reply, message = STREAMS[name]
    server.reply = lambda _: (200, reply)
    stream = ServerGenerator(url=server.url, name="m", retries=0).stream(item("Which organ?"), SETTINGS)
    if not message:
        assert list(stream) == []
        assert stream.generation is not None
        assert stream.generation.truncated
        return
    with pytest.raises(UserError, match=message):
        list(stream)
    assert stream.generation is None


def test_a_stream_of_parts_is_read(server):
    chunks = [
        delta(reasoning_content="h"),
        delta(content=[text("<answer>B")]),
        delta(content="</answer>"),
        delta("stop"),
    ]
    server.reply = lambda _: (200, events(*chunks, "[DONE]"))
    stream = ServerGenerator(url=server.url, name="m", retries=0).stream(item("q"), SETTINGS)
    assert "".join(stream) == "<think>h</think><answer>B</answer>"
    assert stream.generation is not None
    assert not stream.generation.truncated


def test_a_bad_reply_is_asked_for_again(server):
    replies = iter([Raw(b"{"), completion(None)])
    server.reply = lambda _: (200, next(replies, completion(WELL)))
    assert ask(server).text == WELL
    assert len(server.requests) == 3


def test_no_finished_answer_is_lost_to_a_bad_reply(server, data_dir, tmp_path):
    """One question of eight is filtered: the others are on disk, and nothing counts as wrong."""
    count = iter(range(100))
    server.reply = lambda _: (200, completion("", "content_filter") if next(count) == 3 else completion(WELL))
    with pytest.raises(UserError, match=r"content filter withheld the answer\. It is not counted as wrong"):
        evaluate(f"openai:{server.url}#m", data_dir, tmp_path / "run", batch_size=4)
    lines = (tmp_path / "run" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert not (tmp_path / "run" / "results.json").exists()
    server.reply = lambda _: (200, completion(WELL))
    results = evaluate(f"openai:{server.url}#m", data_dir, tmp_path / "run", batch_size=4)
    assert results["n"] == 8
    assert len(server.requests) == 4 + 5
