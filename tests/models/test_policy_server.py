"""A model on a server, against a real HTTP server in this process."""

import base64
import io

import pytest
from PIL import Image

from chat_server import SETTINGS, completion, item
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.models.remote import ServerGenerator


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


def test_answers_stand_in_the_order_of_the_questions_and_few_are_under_way(server):
    server.reply = lambda body: (200, completion(body["messages"][0]["content"][1]["text"]))
    generator = ServerGenerator(url=server.url, name="m", concurrency=3)
    generations = generator.generate([item(f"question {i}") for i in range(20)], SETTINGS)
    assert [generation.text for generation in generations] == [f"question {i}" for i in range(20)]
    assert server.most <= 3


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


def test_refusals_say_status_and_reason(server):
    server.reply = lambda _: (404, {"error": {"message": "no model m here"}})
    with pytest.raises(UserError, match=r"404.*no model m here"):
        ServerGenerator(url=server.url, name="m").generate([item("q")], SETTINGS)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(UserError, match="does not answer"):
        ServerGenerator(url="http://127.0.0.1:9/v1", name="m", retries=0).generate([item("q")], SETTINGS)


@pytest.mark.parametrize(
    "name", ["openai:", "openai:http://host/v1", "openai:host#m", "openai:ftp://host#m", "http://h#m"]
)
def test_a_name_of_another_form_is_an_error(name):
    with pytest.raises(UserError, match="openai:URL#NAME"):
        ServerGenerator.parse(name)


def test_an_evaluation_goes_on_after_the_server_died(server, data_dir, tmp_path):
    model = f"openai:{server.url}#m"

    def dies(body):
        if len(server.requests) > 4:
            return 400, {"error": {"message": "gone"}}
        return 200, completion("<think>seen</think><answer>A</answer>")

    server.reply = dies
    with pytest.raises(UserError, match="gone"):
        evaluate(model, data_dir, tmp_path / "run", batch_size=2)
    stored = len((tmp_path / "run" / "answers.jsonl").read_text().splitlines())
    assert stored == 4
    server.requests.clear()
    server.reply = lambda _: (200, completion("<think>seen</think><answer>A</answer>"))
    results = evaluate(model, data_dir, tmp_path / "run", batch_size=2)
    assert len(server.requests) == 4
    assert results["accuracy"]["MRI"]["n"] == 4
    assert results["model_fingerprint"] == f"server {model}"
