"""The audit of a model on a server: as that of a local model, or with what was not run by name."""

import json

import pytest

from audited import Scripted
from chat_server import METHODS, Vllm
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.errors import UserError


def audit(server, data_dir, out, **settings):
    return audit_model(f"openai:{server.url}#m", data_dir, out, batch_size=3, **settings)


def sentences(record):
    return {name: probe["sentence"] for name, probe in record["probes"].items()}


def answered(server):
    """The requests for answers, without those that find out what the server can do."""
    return [text for text in map(json.dumps, server.chats) if "Name a color" not in text]


def test_the_same_code_audits_a_server_and_a_local_model(server, data_dir, tmp_path):
    Vllm().serve(server)
    record = audit(server, data_dir, tmp_path / "server")
    local = audit_model("m", data_dir, tmp_path / "local", backend=Scripted())
    assert record["verdicts"] == local["verdicts"]
    assert sentences(record) == sentences(local)
    assert record["answers"]["variants"] == local["answers"]["variants"]
    # Ten tokens: the reasoning and the end token are no part of the others.
    rows = map(json.loads, (tmp_path / "server" / "answers.jsonl").read_text().splitlines())
    assert {row["n_tokens"] for row in rows if row["variant"] == "real"} == {len(Vllm().tokens(Vllm().text))}


@pytest.mark.parametrize(
    ("lacks", "reason", "probes"),
    [
        ({"template": "strips"}, "removes the reasoning from an assistant prefill", {"reasoning", "confidence"}),
        ({"methods": ()}, "reports no log-probabilities of letters", {"reasoning", "confidence"}),
    ],
)
def test_what_a_server_cannot_do_is_named(server, data_dir, tmp_path, lacks, reason, probes):
    Vllm(**lacks).serve(server)
    record = audit(server, data_dir, tmp_path)
    assert {name for name, text in sentences(record).items() if f"{reason}." in text} == probes
    assert record["verdicts"]["reasoning"] == "not run"
    assert "mistake" in (tmp_path / "answers.jsonl").read_text() or "template" in lacks
    assert "early-0" not in (tmp_path / "answers.jsonl").read_text()
    # A server that can do it later answers the rest.
    Vllm().serve(server)
    before = answered(server)
    assert not any("Not run" in text for text in sentences(audit(server, data_dir, tmp_path)).values())
    assert not set(before) & set(answered(server)[len(before) :])


@pytest.mark.parametrize("probes", [["image"], ["options"]])
def test_a_probe_without_prefill_does_not_check_the_server(server, data_dir, tmp_path, probes):
    Vllm().serve(server)
    audit(server, data_dir, tmp_path, probes=probes)
    assert len(answered(server)) == len(server.requests)


@pytest.mark.parametrize("after", [5, 70, 118])
def test_a_server_that_dies_loses_no_answer(server, data_dir, tmp_path, after):
    stub = Vllm()
    stub.serve(server)
    replies = []

    def dies(body):
        if len(replies) == after:
            return 503, {"error": {"message": "gone"}}
        if "Name a color" not in (text := json.dumps(body)):
            replies.append(text)
        return stub.reply(body)

    server.reply = dies
    with pytest.raises(UserError, match="gone"):
        audit(server, data_dir, tmp_path)
    stored = (tmp_path / "answers.jsonl").read_text().splitlines()
    # Equal variants are one request.
    assert len(stored) >= sum(json.loads(text).get("n", 1) for text in replies)
    server.requests.clear()
    server.reply = stub.reply
    audit(server, data_dir, tmp_path)
    assert answered(server)
    assert not set(replies) & set(answered(server))
    server.requests.clear()
    audit(server, data_dir, tmp_path)
    assert server.requests == []


def test_of_several_servers_all_must_be_able_and_one_may_die(servers, data_dir, tmp_path, capsys):
    model = f"openai:{servers[0].url},{servers[1].url}#m"
    for server in servers:
        Vllm(methods=METHODS[2:]).serve(server)
    servers[1].reply = lambda _: (503, {"error": {"message": "down"}})
    record = audit_model(model, data_dir, tmp_path / "one", batch_size=2)
    assert not any("Not run" in text for text in sentences(record).values())
    assert capsys.readouterr().err.count(f"Left out from here on: {servers[1].url}") == 1
    Vllm(parser=True).serve(servers[1])
    record = audit_model(model, data_dir, tmp_path / "two", batch_size=2)
    named = f"Not run (early, filler, mistake): {servers[1].url} returns reasoning separately"
    assert named in sentences(record)["reasoning"]
