"""Assistant prefill, letter probabilities and samples on a server: each way to get them, each refusal by name."""

import math
import re
from dataclasses import replace

import pytest

from chat_server import METHODS, SETTINGS, WELL, Vllm, completion, item
from medvlm_r1.errors import UserError
from medvlm_r1.models.choice_logprobs import PrefillServer
from medvlm_r1.models.generate import GenerationSettings
from medvlm_r1.models.remote import ServerGenerator, ServerGone

BEGUN = "<think>It is seen. "
TO_LETTER = "<think>It is seen. It is clear.</think><answer>"
SAMPLED = GenerationSettings(max_new_tokens=20, temperature=1.0, seed=3)
OLD = {"logprob_token_ids": METHODS[1:], "allowed_token_ids": METHODS[2:], "structured_outputs": METHODS[3:]}


def generator(server):
    return ServerGenerator(url=server.url, name="m", retries=0, pause=0)


def opened(server, **changes):
    Vllm(**changes).serve(server)
    return PrefillServer(server=generator(server))


def probabilities(support, n=4):
    with support.server.client() as client:
        return support.letter_probabilities(client, replace(item("Which?"), prefill=TO_LETTER), n)


@pytest.mark.parametrize("template", ["plain", "opens"])
def test_a_prefill_is_continued(server, template):
    support = opened(server, template=template)
    assert support.check() == ""
    before = len(server.requests)
    assert support.check() == ""
    assert len(server.requests) == before
    (generation,) = support.server.generate([replace(item("Which?"), prefill=BEGUN)], SETTINGS)
    # The end of reasoning that the prefill began gets no second beginning.
    assert generation.text == WELL.removeprefix(BEGUN)
    request = server.requests[-1]
    assert request["messages"][-1] == {"role": "assistant", "content": BEGUN}
    assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ({"template": "strips"}, "the chat template of URL removes the reasoning from an assistant prefill"),
        ({"template": "ignores"}, "URL does not continue an assistant prefill as it is"),
        ({"parser": True}, "URL returns reasoning separately; start it without a reasoning parser"),
        ({"counts": False}, "URL does not report the number of prompt tokens"),
        ({"refuses": ("continue_final_message",)}, "URL refuses 'm' with status 400: .*continue_final_message"),
        ({"tokenize": None}, "URL has no /tokenize .*404"),
    ],
)
def test_a_server_that_cannot_continue_a_prefill_is_named(server, lacks, reason):
    tokenize = server.tokenize
    support = opened(server, **{name: value for name, value in lacks.items() if value is not None})
    if None in lacks.values():
        server.tokenize = tokenize
    assert re.search(reason.replace("URL", server.url), support.check())
    assert support.check(4) == support.check()


@pytest.mark.parametrize("tokenizer", ["words", "joins"])
@pytest.mark.parametrize("methods", [METHODS, *OLD.values()])
def test_every_way_to_letter_probabilities_gives_the_same(server, methods, tokenizer):
    support = opened(server, methods=methods, tokenizer=tokenizer)
    assert support.check(4) == ""
    weights = [math.exp(-0.1 * index) for index in range(4)]
    assert probabilities(support) == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-12)
    request = server.requests[-1]
    if tokenizer == "words":
        assert next(name for name in METHODS if name in request) == methods[0]
    assert request["messages"][-1]["content"] == TO_LETTER[: -1 if tokenizer == "joins" else None]
    assert (request["max_tokens"], request["logprobs"]) == (1, True)
    for sent in server.chats:
        assert (sent["top_p"], sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)


@pytest.mark.parametrize("refused", METHODS[:3])
def test_the_next_way_is_taken_where_one_is_refused(server, refused):
    support = opened(server, refuses=METHODS[: METHODS.index(refused) + 1])
    assert support.check(4) == ""
    probabilities(support)
    assert METHODS[METHODS.index(refused) + 1] in server.requests[-1]


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ({"methods": ()}, "URL reports no log-probabilities of letters"),
        ({"refuses": ("logprobs",)}, "URL reports no log-probabilities of letters .*status 400: .*logprobs"),
        ({"tokenizer": "letterless"}, "URL: the tokenizer does not tell the letters A to D apart"),
        ({"tokenizer": "drifts"}, "the tokenizer of URL does not separate the letter from what precedes it"),
    ],
)
def test_a_server_without_letter_probabilities_is_named(server, lacks, reason):
    support = opened(server, **lacks)
    assert support.check() == ""
    assert re.search(reason.replace("URL", server.url), support.check(4))


def test_letters_that_are_not_among_the_most_probable_tokens(server):
    support = opened(server, methods=("top_logprobs",))
    assert support.check(4) == ""
    with support.server.client() as client:
        # After this prefill 25 words are more probable than any letter.
        assert support.letter_probabilities(client, replace(item("Which?"), prefill=BEGUN), 4) == ()
    few = {f"w{index}": -float(index) for index in range(18)} | {"B": -1.0, "A": -2.0}
    server.reply = lambda _: (200, scored(few))
    values = probabilities(support)
    assert values == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0, 0])


def scored(logprobs):
    entries = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    reply = completion("B")
    reply["choices"][0]["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
    return reply


def test_a_server_that_is_gone_is_no_refusal(server):
    support = opened(server)
    server.reply = lambda _: (503, {"error": {"message": "down"}})
    with pytest.raises(ServerGone, match="down"):
        support.check()


def sampled(server):
    with generator(server).client() as client:
        return generator(server).complete(client, item("Which?"), SAMPLED, 5)


def test_samples_of_one_prompt_are_one_request(server):
    Vllm().serve(server)
    generations = sampled(server)
    assert [generation.text for generation in generations] == [WELL] * 5
    [request] = server.requests
    assert (request["n"], request["seed"], request["temperature"]) == (5, 3, 1.0)
    # Each has its own count, without the end token.
    assert {generation.n_tokens for generation in generations} == {len(Vllm().tokens(WELL))}


@pytest.mark.parametrize(
    ("lacks", "seeds"), [({"refuses": ("n",)}, [3, 3, 4, 5, 6, 7]), ({"samples": 2}, [3, 5, 6, 7])]
)
def test_where_one_request_gives_too_few_samples_the_others_are_requested_one_by_one(server, lacks, seeds):
    Vllm(**lacks).serve(server)
    assert len(sampled(server)) == 5
    assert [request["seed"] for request in server.requests] == seeds


def test_a_reply_of_tokenize_without_tokens_is_an_error(server):
    server.tokenize = lambda _: (200, {"count": 3})
    with generator(server).client() as client, pytest.raises(UserError, match=r"has no /tokenize"):
        generator(server).tokenize(client, "A")
