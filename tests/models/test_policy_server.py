"""A model on one server or several, against real HTTP servers in this process."""

import base64
import io

import pytest
from PIL import Image

from chat_server import SETTINGS, completion, item
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.remote import ServerGenerator, ServerPool, server_generators


def test_text_image_and_settings_are_sent_and_the_answer_comes_back(server):
    generator = ServerGenerator.parse(f"openai:{server.url}#org/name")
    (generation,) = generator.generate([item("Which organ?", color=77)], SETTINGS)
    assert (generation.text, generation.n_tokens, generation.truncated) == (
        "<think>seen</think><answer>A</answer>",
        6,
        False,
    )
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


def pool(servers, concurrency=2):
    return ServerPool(
        servers=tuple(ServerGenerator(url=s.url, name="m", concurrency=concurrency, retries=0) for s in servers)
    )


def echo(body):
    return 200, completion(body["messages"][0]["content"][-1]["text"])


@pytest.mark.parametrize("count", [1, 2])
def test_answers_stand_in_order_and_no_server_has_more_under_way_than_it_may(servers, count):
    for server in servers[:count]:
        server.reply = echo
    generations = pool(servers[:count], concurrency=3).generate([item(f"q{n}") for n in range(30)], SETTINGS)
    assert [generation.text for generation in generations] == [f"q{n}" for n in range(30)]
    assert sum(len(server.requests) for server in servers) == 30
    assert max(server.most for server in servers) <= 3


def test_a_server_that_fails_is_named_and_its_questions_go_to_the_other(servers, capsys):
    servers[0].reply = lambda _: (503, {"error": {"message": "out of memory"}})
    servers[1].reply = echo
    both = pool(servers)
    texts = [generation.text for generation in both.generate([item(f"q{n}") for n in range(12)], SETTINGS)]
    assert texts == [f"q{n}" for n in range(12)]
    errors = capsys.readouterr().err
    assert errors.count("Left out from here on") == 1
    assert servers[0].url in errors
    before = len(servers[0].requests)
    both.generate([item("more")], SETTINGS)
    assert len(servers[0].requests) == before


def test_when_none_answers_all_are_named(servers):
    for server in servers:
        server.reply = lambda _: (500, {"error": {"message": "down"}})
    with pytest.raises(UserError, match="None of the servers answers") as error:
        pool(servers).generate([item("q")], SETTINGS)
    assert all(server.url in str(error.value) for server in servers)


def test_a_refusal_is_no_failure_of_the_server(servers):
    for server in servers:
        server.reply = lambda _: (404, {"error": {"message": "no model m here"}})
    with pytest.raises(UserError, match=r"status 404.*no model m here"):
        pool(servers).generate([item(f"q{n}") for n in range(5)], SETTINGS)


def test_an_evaluation_asks_all_the_servers_named(servers, data_dir, tmp_path):
    model = f"openai:{servers[0].url},{servers[1].url}#m"
    results = evaluate(model, data_dir, tmp_path / "run", batch_size=4)
    assert results["accuracy"]["MRI"]["n"] == 4
    assert results["model_fingerprint"] == f"server {model}"
    assert sum(len(server.requests) for server in servers) == 8


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_fields_of_vllm_is_named_and_asked_without_them(server, status, capsys):
    refused = (status, {"error": {"message": "Unrecognized request argument supplied: top_k"}})
    server.reply = lambda body: refused if "top_k" in body else (200, completion("A"))
    generator = ServerGenerator(url=server.url, name="m", concurrency=1)
    assert [generation.text for generation in generator.generate([item("q"), item("r")], SETTINGS)] == ["A", "A"]
    assert ["top_k" in request for request in server.requests] == [True, False, False]
    assert {request["top_p"] for request in server.requests} == {1.0}
    message = f"{server.url} refuses top_k, min_p, repetition_penalty: it applies its own values."
    assert capsys.readouterr().err.count(message) == 1


def test_a_busy_server_is_asked_again(server):
    statuses = iter([429, 503, 500])
    server.reply = lambda _: (next(statuses, 200), completion("A"))
    assert ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)[0].text == "A"
    assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(UserError, match="does not answer"):
        ServerGenerator(url="http://127.0.0.1:9/v1", name="m", retries=0).generate([item("q")], SETTINGS)


@pytest.mark.parametrize(
    "name", ["openai:", "openai:http://host/v1", "openai:host#m", "openai:ftp://host#m", "http://h#m"]
)
def test_a_name_of_another_form_is_an_error(name):
    with pytest.raises(UserError, match="openai:URL#NAME"):
        ServerGenerator.parse(name)


def test_names_of_several_servers():
    servers = server_generators("openai:http://a/v1, http://b/v1,http://a/v1#m", 3)
    assert [(server.url, server.name, server.concurrency) for server in servers] == [
        ("http://a/v1", "m", 3),
        ("http://b/v1", "m", 3),
    ]
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        server_generators("openai:http://a/v1,b#m")
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        ServerGenerator.parse("openai:http://a/v1,http://b/v1#m")
