"""How probable each letter is as the next token."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from medvlm_r1.data.sample import Sample
from medvlm_r1.models.choice_logprobs import letter_place, letter_probabilities
from medvlm_r1.models.generate import GenerationInput
from medvlm_r1.prompts.templates import messages


def item(size=(40, 30)):
    sample = Sample(
        id="q", images=("images/q.png",), question="Which?", options=("a", "b", "c"), answer="a", modality="CT"
    )
    return GenerationInput(prompt=messages(sample), images=[Image.new("RGB", size, (90, 10, 200))])


class Joining:
    """A tokenizer of characters that joins `>` with a letter after it."""

    def __call__(self, texts, add_special_tokens):
        joined = [[*text[:-2], text[-2:]] if text[-2] == ">" else [*text] for text in texts]
        return {"input_ids": [[hash(token) for token in tokens] for tokens in joined]}


class Letterless:
    """A tokenizer that takes every letter for the same."""

    def __call__(self, texts, add_special_tokens):
        return {"input_ids": [[1, 2, 3] for _ in texts]}


@pytest.mark.parametrize(("n_options", "letters"), [(3, "ABC"), (1, "A")])
def test_the_position_is_before_a_token_that_joins_text_and_letter(n_options, letters):
    position = letter_place(Joining(), "so <a>", n_options)
    assert position.context == tuple(hash(character) for character in "so <a")
    assert position.candidates == tuple(hash(f">{letter}") for letter in letters)


def test_letters_that_no_single_token_tells_apart_are_refused():
    with pytest.raises(ValueError, match="letters A to C apart"):
        letter_place(Letterless(), "so", 3)


def test_the_probabilities_are_the_models_own_next_token_among_the_letters(policy):
    prefill = "<think>liver</think><answer>"
    [shares] = letter_probabilities(policy, [item()], [prefill], [3])
    processor = policy.processor
    text = processor.apply_chat_template(list(item().prompt), add_generation_prompt=True) + prefill
    inputs = processor(text=[text], images=[list(item().images)], return_tensors="pt")
    with torch.inference_mode():
        logits = policy.model(**inputs).logits[0, -1]
    tokens = [processor.tokenizer.convert_tokens_to_ids(letter) for letter in "ABC"]
    assert shares == pytest.approx(torch.softmax(logits[tokens].double(), dim=0).tolist(), abs=1e-6)


def test_an_item_has_the_same_probabilities_in_any_batch(policy):
    prefill = "<answer>"
    alone = letter_probabilities(policy, [item()], [prefill], [3])
    pair = letter_probabilities(policy, [item((70, 56)), item()], ["<think>liver</think>" + prefill, prefill], [2, 3])
    assert pair[1] == alone[0]
    assert len(pair[0]) == 2
    assert sum(pair[0]) == pytest.approx(1)
    # The item's own prefill is not read.
    assert letter_probabilities(policy, [replace(item(), prefill="liver liver")], [prefill], [3]) == alone
    assert letter_probabilities(policy, [item()], [prefill], [1]) == [(1.0,)]
