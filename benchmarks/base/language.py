"""Prompts and responses that the embedded base is trained on, by prompt template.

With reasoning, the base answers in one of four habits. The phrasing of a question determines the probability of each
habit. By design, the base knows more than its answers show. Like a model trained on web text, it has one sound habit
and three careless ones. The shares below define this mixture completely. Nothing depends on the modality, so a habit
strengthened on MRI can carry over to CT and X-ray.

Without reasoning, the base answers by the letter alone. It learned this weak skill separately, from images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from medvlm_r1.data.option_prior import shuffled, subset
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.questions import PHRASINGS, TYPES, Question, ask, describe, value, vocabulary
from medvlm_r1.phantom.scene import KINDS, MODALITIES, REGIONS, Scene
from medvlm_r1.prompts.templates import TEMPLATES

CAPTION_REQUEST = "Describe this image."

TEMPLATE_NAMES = ("medvlm-r1", "answer-only", "no-think", "medvlm-r1-box", "medvlm-r1-open")
"""The templates of `prompts.templates` that the base knows. The tokenizer is trained on them."""

CAREFUL = {"reasoned": 0.74, "hasty": 0.10, "bare": 0.06, "untagged": 0.10}
HURRIED = {"reasoned": 0.20, "hasty": 0.46, "bare": 0.14, "untagged": 0.20}
LOOSE = {"reasoned": 0.16, "hasty": 0.14, "bare": 0.20, "untagged": 0.50}

MIXTURE: tuple[Mapping[str, float], ...] = (CAREFUL, CAREFUL, CAREFUL, HURRIED, HURRIED, LOOSE)
"""Shares of the habits by phrasing number (see `phantom.questions.PHRASINGS`)."""

# One wording each: several would split the habit's share at its first word, and greedy decoding follows the largest.
_HASTY = "<think>I have seen an image like this before.</think>"
_BARE = "I think the answer is {}."

PAIR_OPTIONS = {
    (True, False): "first image",
    (False, True): "second image",
    (True, True): "both images",
    (False, False): "neither image",
}
"""Options of questions on two images. The key tells whether the first and the second image show the requested value."""

PAIR_QUESTIONS = {
    "modality": "Which of the two images is a {} image?",
    "region": "Which of the two images shows the {}?",
    "finding": "Which of the two images shows a {}?",
}
"""Questions on two images, by attribute, with a place for the value."""

Edges = tuple[float, float, float, float]
"""x1, y1, x2, y2 of a finding, as fractions of the image's width and height."""


@dataclass(frozen=True, slots=True)
class PairQuestion:
    """A question on two images.

    Attributes:
        scenes: The truth of both images.
        attribute: Key of `PAIR_QUESTIONS`.
        value: Value of the attribute that the question is about.
        options: Two to four texts of `PAIR_OPTIONS`, shuffled.
        answer: Text of the correct option.
    """

    scenes: tuple[Scene, Scene]
    attribute: str
    value: str
    options: tuple[str, ...]
    answer: str


def ask_pair(first: Scene, second: Scene, rng: np.random.Generator) -> PairQuestion:
    """Draw a question on two images. Every answer that is possible for the images is equally likely."""
    attribute = str(rng.choice(list(PAIR_QUESTIONS)))
    values = {"modality": MODALITIES, "region": REGIONS, "finding": KINDS}[attribute]
    shown = getattr(first, attribute), getattr(second, attribute)
    answers = {value: PAIR_OPTIONS[shown[0] == value, shown[1] == value] for value in values}
    answer = str(rng.choice(sorted(set(answers.values()))))
    value = str(rng.choice([value for value, text in answers.items() if text == answer]))
    others = rng.permutation([text for text in PAIR_OPTIONS.values() if text != answer])
    options = rng.permutation([answer, *others[: int(rng.integers(1, 4))]])
    return PairQuestion((first, second), attribute, value, tuple(map(str, options)), answer)


def weigh(question: Question | PairQuestion, *, options: bool = True) -> str:
    """State what the question asks for, then judge each option with yes or no.

    With the statement, an option only has to be compared with the preceding words. Without it, the base has to find the
    option's value in the description. It learned this in one run, but only half in another.

    Args:
        question: The question.
        options: Whether to judge the options. If False, the text is only the statement.
    """
    asked = "image" if isinstance(question, PairQuestion) else question.attribute
    statement = f"{asked.capitalize()}: {question.answer}."
    if not options:
        return statement
    parts = [
        f"{letter} {option} {'yes' if option == question.answer else 'no'}"
        for letter, option in zip(LETTERS, question.options, strict=False)
    ]
    return f"{statement} {', '.join(parts)}."


def letter_of(question: Question | PairQuestion) -> str:
    """Letter of the correct option."""
    return LETTERS[question.options.index(question.answer)]


def ask_about(scene: Scene, rng: np.random.Generator) -> Question:
    """Draw a question about a given scene, to train the embedded base model."""
    soft = scene.technique != "bone window"
    answered = {"plane": scene.modality != "X-ray", "finding": soft, "size": soft and scene.size is not None}
    answered["side"] = soft and scene.side_is_seen
    pairs = [(kind, attribute) for kind in TYPES for attribute in TYPES[kind] if answered.get(attribute, True)]
    kind, attribute = pairs[int(rng.integers(len(pairs)))]
    answer = value(scene, attribute)
    others = [v for v in vocabulary(attribute, scene.modality, scene.region) if v != answer]
    options = shuffled([*subset(others, 1, rng), answer], rng)
    return Question(scene, kind, attribute, int(rng.integers(6)), options, answer)


def box_text(box: Edges | None) -> str:
    """The box of a finding in integers from 0 to 1000, rounded to tens; "" if there is no finding."""
    if box is None:
        return ""
    return "<box>" + ",".join(str(10 * round(100 * edge)) for edge in box) + "</box>"


def reasoning(question: Question | PairQuestion, *, options: bool = True) -> str:
    """The sound reasoning: a description of the image, what the question asks for, and a verdict on each option."""
    if isinstance(question, PairQuestion):
        first, second = map(describe, question.scenes)
        seen = f"First: {first} Second: {second}"
    else:
        seen = describe(question.scene)
    return f"{seen} {weigh(question, options=options)}"


def reasoned(question: Question | PairQuestion) -> str:
    """The response in the sound habit, for the template "medvlm-r1"."""
    return f"<think>{reasoning(question)}</think><answer>{letter_of(question)}</answer>"


def respond(
    question: Question | PairQuestion,
    habit: str,
    rng: np.random.Generator,
    *,
    template: str = "medvlm-r1",
    box: Edges | None = None,
    first: float = 0.0,
) -> str:
    """Write a response in one of the four habits.

    Args:
        question: The question.
        habit: "reasoned" (tags, description, options judged, correct), "hasty" (tags, image not used, a guess), "bare"
            (a guessed sentence, no tags) or "untagged" (as reasoned, without tags).
        rng: Random generator of the guesses.
        template: "medvlm-r1", "medvlm-r1-box" or "medvlm-r1-open".
        box: Position of the finding, for "medvlm-r1-box".
        first: Share of guesses that are the first option instead of a random one.
    """
    options = template != "medvlm-r1-open"
    if options or isinstance(question, PairQuestion):
        answer, guesses = letter_of(question), tuple(LETTERS[: len(question.options)])
    else:
        answer = question.answer
        guesses = vocabulary(question.attribute, question.scene.modality, question.scene.region)
    guess = guesses[0] if first and rng.random() < first else str(rng.choice(guesses))
    boxes, guessed_box = "", ""
    if template == "medvlm-r1-box":
        boxes, guessed_box = box_text(box), box_text((0.4, 0.4, 0.6, 0.6))
    if habit == "reasoned":
        return f"<think>{reasoning(question, options=options)}</think>{boxes}<answer>{answer}</answer>"
    if habit == "hasty":
        return f"{_HASTY}{guessed_box}<answer>{guess}</answer>"
    if habit == "bare":
        return _BARE.format(guess)
    return f"{reasoning(question, options=options)} The answer is {answer}."


def careless(
    question: Question,
    rng: np.random.Generator,
    *,
    template: str = "medvlm-r1",
    box: Edges | None = None,
    first: float = 0.0,
) -> str:
    """Write a response in a habit that is drawn from the mixture of the question's phrasing."""
    mixture = MIXTURE[question.phrasing]
    habit = str(rng.choice(list(mixture), p=list(mixture.values())))
    return respond(question, habit, rng, template=template, box=box, first=first)


def direct(question: Question, template: str) -> str:
    """The correct letter alone, in the form that the templates "answer-only" and "no-think" request."""
    return letter_of(question) if template == "answer-only" else f"<answer>{letter_of(question)}</answer>"


def prompt(question: Question | PairQuestion, *, template: str = "medvlm-r1", whole: bool = True) -> str:
    """The prompt of a question. If `whole` is false, it has only the question and its options."""
    if isinstance(question, PairQuestion):
        text = PAIR_QUESTIONS[question.attribute].format(question.value)
    else:
        text = question.text
    if template != "medvlm-r1-open":
        options = [f"{letter}) {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
        text = "\n".join([text, *options])
    return TEMPLATES[template].format(question=text) if whole else text


def corpus(seed: int, n: int = 4000) -> Iterator[str]:
    """Texts to train the tokenizer: samples of all prompts and responses of the base."""
    rng = np.random.default_rng((seed, 7))
    for wordings in PHRASINGS.values():
        yield from wordings
    yield from (TEMPLATES[name].format(question="") for name in TEMPLATE_NAMES)
    yield CAPTION_REQUEST
    for index in range(n):
        question = ask(str(rng.choice(MODALITIES)), (SPLITS["pretrain"], seed, index), rng)
        text = prompt(question) if index % 8 == 0 else question.text
        corner = rng.uniform(0, 0.8, 2)
        x1, y1, x2, y2 = *corner, *(corner + rng.uniform(0.05, 0.2, 2))
        answer = careless(question, rng) + box_text((x1, y1, x2, y2))
        for tag in ("<think>", "</think>", "<box>", "</box>"):
            answer = answer.replace(tag, " ")
        yield text + "\n" + answer
    for _ in range(n // 20):
        first, second = (ask(str(rng.choice(MODALITIES)), (SPLITS["pretrain"], seed, 0), rng).scene for _ in range(2))
        pair = ask_pair(first, second, rng)
        yield prompt(pair, whole=False) + "\n" + reasoning(pair)
