"""A judge of open answers, on a chat server."""

import json
import re

import pytest

from chat_server import completion
from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation.judge import parse_verdict
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import report_lines
from scripted import Scripted

ANSWERS = {"liver": "the liver", "spleen": "hepar", "left lung": "", "mass": "a tumor, probably"}
"""The answer to each question, by its reference."""
VERDICTS = {"the liver": "<think>Or no?</think>Yes.", "hepar": "yes", "a tumor, probably": "yes or no"}


@pytest.fixture
def folder(tmp_path):
    samples = [
        Sample(id=f"q{n}", images=(), question=f"What is seen in {name}?", options=(), answer=name, modality="CT")
        for n, name in enumerate(ANSWERS)
    ]
    (tmp_path / "data").mkdir()
    write_folder(tmp_path / "data", samples, info={"name": "made"})
    return tmp_path / "data"


def answering(prompt):
    name = re.search(r"seen in (.+)\?", json.dumps(prompt))[1]
    return f"<think>x</think><answer>{ANSWERS[name]}</answer>"


def test_its_agreement_with_the_rules_is_reported(folder, tmp_path, server):
    def judge(body):
        text = body["messages"][0]["content"][0]["text"]
        return 200, completion(VERDICTS[re.search(r"^Answer: (.*)$", text, re.MULTILINE)[1]])

    server.reply = judge
    name = f"openai:{server.url}#judge"
    results = evaluate("m", folder, tmp_path / "run", generator=Scripted(answering), judge=name)
    found = results["open"]["judge"]
    # The empty answer is not sent. The rules accept the liver alone, the judge hepar too; one reply is unclear.
    assert len(server.chats) == 3
    assert (results["open"]["correct"], found["correct"]["correct"], found["correct"]["n"]) == (1, 2, 3)
    assert (found["agreement"]["equal"], found["only_judge"], found["only_rules"], found["unparsed"]) == (2, 1, 0, 1)
    assert json.loads((tmp_path / "run/results.json").read_text())["open"]["judge"] == found
    assert f"judge {name}: accepts 66.7 %, agrees with the rules in 66.7 % of 3" in "\n".join(report_lines(results))
    # Its verdicts change no score.
    plain = evaluate("m", folder, tmp_path / "plain", generator=Scripted(answering))
    assert {key: value for key, value in results["open"].items() if key != "judge"} == plain["open"]


def test_a_judge_that_fails_leaves_the_results(folder, tmp_path, server):
    server.reply = lambda _: (404, {"error": {"message": "no such model"}})
    with pytest.raises(UserError, match="no such model"):
        evaluate("m", folder, tmp_path, generator=Scripted(answering), judge=f"openai:{server.url}#judge")
    assert json.loads((tmp_path / "results.json").read_text())["open"]["n"] == 4


def test_a_judge_is_a_model_on_a_server(folder, tmp_path):
    with pytest.raises(UsageError, match="wanted a model on a server, openai:URL#NAME"):
        evaluate("m", folder, tmp_path / "run", generator=Scripted(answering), judge="phantom-base")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("Yes", True), ("no.", False), ("yes, no", None), ("", None), ("<think>no</think>\nyes", True), ("Nope", None)],
)
def test_verdicts(text, verdict):
    assert parse_verdict(text) is verdict
