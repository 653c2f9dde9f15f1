"""A chat template that opens the reasoning itself: its tag is part of the response, everywhere and once."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.audit.backends import GeneratorAuditBackend
from medvlm_r1.audit.collect import audited
from medvlm_r1.audit.local_backend import LocalAuditBackend
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.audit.store import AuditStore
from medvlm_r1.audit.variant import Variant
from medvlm_r1.data.folder import read_folder
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import read_as_asked
from medvlm_r1.evaluation.store import ANSWERS
from medvlm_r1.models.choice_logprobs import letter_probabilities
from medvlm_r1.models.generate import (
    GenerationInput,
    GenerationSettings,
    LocalGenerator,
    answer_opening,
    opened,
    prompt_and_prefill,
)
from medvlm_r1.models.load import load_policy
from medvlm_r1.prompts.templates import messages
from medvlm_r1.serving.medvlm import LocalBackend, MedVLM, Question
from medvlm_r1.serving.page.case import NO_REASONING
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.sft import train_sft
from tiny_policy import OPENING, build_tiny_policy, teach

WRITTEN = "It is the knee. The joint is seen.</think><answer>D</answer>"
WHOLE = OPENING + WRITTEN
IMAGE = Image.new("RGB", (40, 30), (30, 90, 160))
SETTINGS = GenerationSettings(max_new_tokens=48)


@pytest.fixture(scope="module")
def question(data_dir):
    """A question with one image."""
    return read_folder(data_dir)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, question):
    """A tiny policy whose template ends with `<think>`, and which goes on with `WRITTEN`."""
    made = tmp_path_factory.mktemp("opening")
    build_tiny_policy(made, OPENING)
    teach(made, messages(question), WRITTEN)
    return made


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(str(folder), device="cpu")


def test_a_turn_replaces_what_the_template_opens(policy, question):
    item = GenerationInput(prompt=messages(question), images=[IMAGE])
    plain = opened(policy.processor, item)
    assert plain.endswith(f"<|im_start|>assistant\n{OPENING}")
    assert answer_opening(policy.processor, item) == OPENING
    bare = plain.removesuffix(OPENING)
    for prefill, split in {
        OPENING: (plain, ""),
        f"{OPENING}It is.": (plain, "It is."),
        "<think>It is.": (bare, "<think>It is."),
        NO_REASONING: (bare, NO_REASONING),
        "<answer>": (bare, "<answer>"),
    }.items():
        begun = replace(item, prefill=prefill)
        assert prompt_and_prefill(policy.processor, begun) == split
        assert opened(policy.processor, begun) == bare + prefill
        assert answer_opening(policy.processor, begun) == ""


def test_generation_begins_with_the_opening_and_counts_no_token_for_it(policy, question):
    generator = LocalGenerator(policy=policy)
    item = GenerationInput(prompt=messages(question), images=[IMAGE])
    [whole] = generator.generate([item], SETTINGS)
    assert whole.text == WHOLE
    [rest] = generator.generate([replace(item, prefill=f"{OPENING}It is")], SETTINGS)
    assert rest.text == WRITTEN.removeprefix("It is")
    assert whole.n_tokens == rest.n_tokens + len(policy.processor.tokenizer("It is")["input_ids"])
    # The letters after a turn: those of the text written out by hand.
    prefill = WHOLE.partition("D</answer>")[0]
    [shares] = letter_probabilities(policy, [item], [prefill], [4])
    assert max(range(4), key=shares.__getitem__) == 3
    assert opened(policy.processor, replace(item, prefill=prefill)).count(OPENING) == 1


def test_an_evaluation_finds_the_answers_well_formed(folder, data_dir, tmp_path):
    result = evaluate(str(folder), data_dir, tmp_path / "run", max_new_tokens=48)
    assert result["well_formed"]["percent"] == 100.0
    assert result["accuracy"]["mean"] == 25.0
    assert result["mean_reasoning_words"] == 8
    rows = [json.loads(line) for line in (tmp_path / "run" / ANSWERS).read_text().splitlines()]
    assert {row["text"] for row in rows} == {WHOLE}


@pytest.mark.parametrize("sharing", [True, False])
def test_rewards_and_rollouts_of_a_training_see_the_opening(folder, write_config, sharing):
    rewards = [{"name": name} for name in ("format_paper", "format_strict", "accuracy_strict", "consistent")]
    trainer = {"max_steps": 1, "max_completion_length": 48, "temperature": 0.1}
    config = load_config(write_config(model=str(folder), rewards=rewards, sharing=sharing, trainer=trainer))
    run = train_grpo(config).parent
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert {row["completion"] for row in rows} == {WHOLE}
    for row in rows:
        assert row["rewards"]["format_paper"] == row["rewards"]["format_strict"] == row["rewards"]["consistent"] == 1


def test_imitation_of_letters_refuses_a_template_that_would_train_and_ask_differently(folder, write_config):
    with pytest.raises(UserError, match=r"ends a prompt with '<think>\\n'.*instruct variant"):
        train_sft(load_config(write_config("sft", model=str(folder))))


def test_an_audit_cuts_the_reasoning_and_doubles_no_tag(folder, data_dir, tmp_path):
    result = audit_model(str(folder), data_dir, tmp_path / "run", probes=["reasoning", "confidence"], max_new_tokens=48)
    measures = result["probes"]["reasoning"]["measures"]
    assert measures["reasoned"]["value"] == 1
    assert measures["same_with_all"]["value"] == 1
    assert result["answers"]["not_well_formed"] == result["answers"]["unparsed"] == 0
    with AuditStore(tmp_path / "run") as store:
        items = audited(read_folder(data_dir), {name: item.answers for name, item in store.items.items()})
    for item in items:
        assert item.real.text == WHOLE
        assert item.answers["cut-0"].text.startswith(f"{OPENING}</think><answer>")
        for answer in item.answers.values():
            assert answer.text.startswith(OPENING)
            assert answer.text.count("<think>") == 1


def test_shared_answers_are_the_ones_given_one_by_one(policy, question):
    prefixes = (OPENING, f"{OPENING}It is the", "<think>It is the", "<answer>", f"{OPENING}It is.</think><answer>")
    variants = [Variant(name="real", sample=question, images=(IMAGE,))]
    for number, prefix in enumerate(prefixes):
        letter = prefix.endswith("<answer>")
        variants.append(Variant(name=f"v{number}", sample=question, images=(IMAGE,), prefix=prefix, letter_only=letter))
    shared = LocalAuditBackend(policy=policy, max_new_tokens=48).answer(variants)
    plain = GeneratorAuditBackend(policy=policy, max_new_tokens=48)
    for ours, other in zip(shared, plain.answer(variants), strict=True):
        assert replace(ours, probabilities=None) == replace(other, probabilities=None)
        assert ours.probabilities == (other.probabilities and pytest.approx(other.probabilities, abs=1e-5))
    assert shared[0].text == shared[1].text == shared[2].text == WHOLE


def test_an_answer_and_its_stream_begin_with_the_opening(policy, question):
    with MedVLM(LocalBackend(policy), name="tiny", max_new_tokens=48) as model:
        query = Question(image=IMAGE, question=question.question, options=question.options)
        answer = model.ask_batch([query])[0]
        assert (answer.text, answer.letter, answer.well_formed) == (WHOLE, "D", True)
        assert answer.confidence is not None
        assert max(answer.confidence, key=answer.confidence.__getitem__) == question.options[3]
        with model.stream(query) as stream:
            assert "".join(stream) == WHOLE
        assert stream.answer == answer


def test_a_letter_alone_may_follow_a_reasoning():
    letters = {"B": "B", "<think>\nB": "B", "<think>\nIt is.</think>\n\nB": "B", "<think>It is B": None}
    for text, letter in (letters | {"<think>It is.</think> It is B": None, "<think>\n": None}).items():
        response = read_as_asked(text, ("liver", "knee"), "answer-only")
        assert (response.letter, response.well_formed) == (letter, letter is not None)
