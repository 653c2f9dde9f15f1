"""How probable each letter is as the next token."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from medvlm_r1.data.sample import Sample
from medvlm_r1.models.choice_logprobs import letter_place, letter_probabilities
from medvlm_r1.models.generate import GenerationInput
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.prompts.templates import messages


@pytest.fixture(scope="module")
def policy(tiny_policy_dir: Path) -> Policy:
    return load_policy(str(tiny_policy_dir), device="cpu")


def item(size: tuple[int, int] = (40, 30)) -> GenerationInput:
    sample = Sample(
        id="q", images=("images/q.png",), question="Which?", options=("a", "b", "c"), answer="a", modality="CT"
    )
    return GenerationInput(prompt=messages(sample), images=[Image.new("RGB", size, (90, 10, 200))])


class Joining:
    """A tokenizer of characters that joins `>` with a letter after it."""

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        joined = [[*text[:-2], text[-2:]] if text[-2] == ">" else [*text] for text in texts]
        return {"input_ids": [[hash(token) for token in tokens] for tokens in joined]}


class Letterless:
    """A tokenizer that takes every letter for the same."""

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, 2, 3] for _ in texts]}


def test_the_place_is_before_a_token_that_holds_the_letter_and_what_stands_before_it() -> None:
    place = letter_place(Joining(), "so <a>", 3)
    assert place.context == tuple(hash(character) for character in "so <a")
    assert place.candidates == (hash(">A"), hash(">B"), hash(">C"))


def test_a_single_letter_has_its_place() -> None:
    place = letter_place(Joining(), "so <a>", 1)
    assert (place.context, place.candidates) == (letter_place(Joining(), "so <a>", 3).context, (hash(">A"),))


def test_letters_that_no_single_token_tells_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="letters A to C apart"):
        letter_place(Letterless(), "so", 3)


def test_the_probabilities_are_the_models_own_next_token_among_the_letters(policy: Policy) -> None:
    turn = "<think>liver</think><answer>"
    [shares] = letter_probabilities(policy, [item()], [turn], [3])
    processor = policy.processor
    text = processor.apply_chat_template(list(item().prompt), add_generation_prompt=True) + turn
    inputs = processor(text=[text], images=[list(item().images)], return_tensors="pt")
    with torch.inference_mode():
        logits = policy.model(**inputs).logits[0, -1]
    tokens = [processor.tokenizer.convert_tokens_to_ids(letter) for letter in "ABC"]
    assert shares == pytest.approx(torch.softmax(logits[tokens].double(), dim=0).tolist(), abs=1e-6)


def test_an_item_is_weighed_alike_whatever_stands_beside_it(policy: Policy) -> None:
    turn = "<answer>"
    alone = letter_probabilities(policy, [item()], [turn], [3])
    among = letter_probabilities(policy, [item((70, 56)), item()], ["<think>liver</think>" + turn, turn], [2, 3])
    assert among[1] == alone[0]
    assert len(among[0]) == 2
    assert sum(among[0]) == pytest.approx(1)


def test_of_one_letter_all_is_its_own(policy: Policy) -> None:
    assert letter_probabilities(policy, [item()], ["<think>liver</think><answer>"], [1]) == [(1.0,)]


def test_the_items_own_turn_is_not_read(policy: Policy) -> None:
    begun = replace(item(), prefill="liver liver")
    assert letter_probabilities(policy, [begun], ["<answer>"], [2]) == letter_probabilities(
        policy, [item()], ["<answer>"], [2]
    )
