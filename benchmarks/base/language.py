"""What the embedded base reads and writes: four habits of answering, and how often each follows a phrasing.

The base is meant to know more than it says. Like a model raised on web text it has learned one sound habit and three
careless ones, and how a question is phrased decides which is likely. The shares below are the whole of that design;
nothing depends on the modality, so a habit strengthened on MRI can carry over to CT and X-ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.phantom.benchmark import SPLITS, to_sample
from medvlm_r1.phantom.questions import PHRASINGS, Question, ask, describe
from medvlm_r1.phantom.scene import MODALITIES
from medvlm_r1.prompts.templates import TEMPLATES, render_prompt

CAPTION_REQUEST = "Describe this image."

CAREFUL = {"reasoned": 0.74, "hasty": 0.10, "bare": 0.06, "untagged": 0.10}
HURRIED = {"reasoned": 0.20, "hasty": 0.46, "bare": 0.14, "untagged": 0.20}
LOOSE = {"reasoned": 0.16, "hasty": 0.14, "bare": 0.20, "untagged": 0.50}

MIXTURE: tuple[Mapping[str, float], ...] = (CAREFUL, CAREFUL, CAREFUL, HURRIED, HURRIED, LOOSE)
"""Shares of the habits by phrasing number (see `phantom.questions.PHRASINGS`)."""

# One wording each: several would split the habit's share at its first word, and greedy decoding follows the largest.
_HASTY = "<think>I have seen an image like this before.</think><answer>{}</answer>"
_BARE = "I think the answer is {}."


def weigh(question: Question) -> str:
    """States what was asked for, then says yes or no to each option, as one eliminates.

    The statement makes weighing a comparison with the words just before; without it the base had to look each option up
    in the description, which it learned in one run and only half in another.
    """
    parts = [
        f"{letter} {option} {'yes' if option == question.answer else 'no'}"
        for letter, option in zip(LETTERS, question.options, strict=False)
    ]
    return f"{question.attribute.capitalize()}: {question.answer}. " + ", ".join(parts) + "."


def reasoned(question: Question) -> str:
    """The sound habit: what is seen, the options weighed, the answer."""
    letter = LETTERS[question.options.index(question.answer)]
    return f"<think>{describe(question.scene)} {weigh(question)}</think><answer>{letter}</answer>"


def respond(question: Question, habit: str, rng: np.random.Generator) -> str:
    """A response in one of the four habits.

    Args:
        question: The question.
        habit: "reasoned" (tags, seen and weighed, right), "hasty" (tags, no look, a guessed letter), "bare" (a guessed
            sentence, no tags) or "untagged" (seen and weighed, right, no tags).
        rng: Source of guesses.
    """
    if habit == "reasoned":
        return reasoned(question)
    guess = LETTERS[int(rng.integers(len(question.options)))]
    if habit == "hasty":
        return _HASTY.format(guess)
    if habit == "bare":
        return _BARE.format(guess)
    letter = LETTERS[question.options.index(question.answer)]
    return f"{describe(question.scene)} {weigh(question)} The answer is {letter}."


def careless(question: Question, rng: np.random.Generator) -> str:
    """A response in a habit drawn from the phrasing's mixture."""
    mixture = MIXTURE[question.phrasing]
    return respond(question, str(rng.choice(list(mixture), p=list(mixture.values()))), rng)


def prompt(question: Question, *, whole: bool = True) -> str:
    """The paper's prompt for a question; without `whole`, only the question and its options."""
    text: str = render_prompt(to_sample(question, "pretrain", 0))
    return text if whole else text[: text.index("\nYour task")]


def corpus(seed: int, n: int = 4000) -> Iterator[str]:
    """Texts for the tokenizer, in the manner of all that the base reads and writes."""
    rng = np.random.default_rng((seed, 7))
    for wordings in PHRASINGS.values():
        yield from wordings
    yield from (template.format(question="") for template in TEMPLATES.values())
    yield CAPTION_REQUEST
    for index in range(n):
        question = ask(str(rng.choice(MODALITIES)), (SPLITS["pretrain"], seed, index), rng)
        text = prompt(question) if index % 8 == 0 else question.text
        yield text + "\n" + careless(question, rng).replace("<think>", "").replace("</think>", "")
