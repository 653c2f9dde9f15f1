"""Several servers with the same model, against real HTTP servers in this process."""

import pytest

from chat_server import SETTINGS, completion, item
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.remote import ServerGenerator, ServerPool, server_generators


def pool(servers, concurrency=2):
    return ServerPool(
        servers=tuple(ServerGenerator(url=s.url, name="m", concurrency=concurrency, retries=0) for s in servers)
    )


def echo(body):
    return 200, completion(body["messages"][0]["content"][-1]["text"])


def test_answers_stand_in_order_and_no_server_has_more_under_way_than_it_may(servers):
    for server in servers:
        server.reply = echo
    generations = pool(servers).generate([item(f"q{n}") for n in range(30)], SETTINGS)
    assert [generation.text for generation in generations] == [f"q{n}" for n in range(30)]
    assert sum(len(server.requests) for server in servers) == 30
    assert max(server.most for server in servers) <= 2


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
        server.reply = lambda _: (404, {"error": {"message": "no such model"}})
    with pytest.raises(UserError, match="status 404"):
        pool(servers).generate([item(f"q{n}") for n in range(5)], SETTINGS)


def test_an_evaluation_asks_all_the_servers_named(servers, data_dir, tmp_path):
    results = evaluate(f"openai:{servers[0].url},{servers[1].url}#m", data_dir, tmp_path / "run", batch_size=4)
    assert results["accuracy"]["MRI"]["n"] == 4
    assert sum(len(server.requests) for server in servers) == 8


def test_names():
    servers = server_generators("openai:http://a/v1, http://b/v1,http://a/v1#m", 3)
    assert [(server.url, server.name, server.concurrency) for server in servers] == [
        ("http://a/v1", "m", 3),
        ("http://b/v1", "m", 3),
    ]
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        server_generators("openai:http://a/v1,b#m")
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        ServerGenerator.parse("openai:http://a/v1,http://b/v1#m")
