"""Builders of audited items, and a check that holds for every probe."""

import json

import pytest
from PIL import Image

from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.variant import REAL, AuditBackend, AuditedItem, parsed_answer, scored_choice
from medvlm_r1.data.sample import LETTERS, Sample

UNREADABLE = "I cannot tell."
WELL = "<think>It is seen. It is clear.</think><answer>A</answer>"


class Scripted(AuditBackend):
    """Answers as `reply` says, and A where a letter is scored; stops like a key press after so many calls.

    Attributes:
        batches: The names of the variants of each call.
    """

    def __init__(self, reply=lambda _: WELL, stop_after=None):
        self.reply, self.stop_after = reply, stop_after
        self.batches = []

    @property
    def names(self):
        return [name for batch in self.batches for name in batch]

    def answer(self, variants):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([variant.name for variant in variants])
        return [self.answer_one(variant) for variant in variants]

    def answer_one(self, variant):
        if variant.letter_only:
            return scored_choice(variant, [1.0, *[0.0] * (len(variant.sample.options) - 1)])
        text = variant.prefix or self.reply(variant)
        return parsed_answer(variant, text, n_tokens=9, truncated=text.endswith("..."))


def sample(number=0, k=4, right=0, **changes):
    """A question with k options "o0", "o1", ...; the one numbered `right` is correct."""
    fields = {"id": f"q{number:04d}", "images": ("images/x.png",), "question": "Which?", "modality": "MRI"}
    fields |= {"options": tuple(f"o{index}" for index in range(k)), "answer": f"o{right}", "subject": ""}
    return Sample(**(fields | changes))


def probe_input(of, *, others=True, size=(6, 4), seed=7):
    """The input of a probe: images of one color."""
    images = tuple(Image.new("RGB", size, (10, 20, 30)) for _ in of.images)
    other = tuple(Image.new("RGB", size, (200, 0, 0)) for _ in of.images) if others else ()
    return ProbeInput(sample=of, images=images, others=other, seed=seed, template="medvlm-r1")


def reply(of, text, name=REAL, n_tokens=3):
    """The answer parsed from a text."""
    return parsed_answer(probe_input(of).variant(name), text, n_tokens=n_tokens, truncated=False)


def item(of, answers, variants=None):
    """An item whose variants were answered with these option texts; None is an unparsed answer.

    Args:
        of: The question.
        answers: Option text by name of the variant.
        variants: The variants, where their options are in another order.
    """
    replies = {}
    for name, option in answers.items():
        variant = (variants or {}).get(name) or probe_input(of).variant(name)
        letter = None if option is None else LETTERS[variant.sample.options.index(option)]
        text = UNREADABLE if letter is None else f"<think>So.</think><answer>{letter}</answer>"
        replies[name] = parsed_answer(variant, text, n_tokens=3, truncated=False)
    return AuditedItem(sample=of, answers=replies)


def numbers(result, *names):
    """Value (approximately) and n of these measures."""
    return [(pytest.approx(result.measures[name].value), result.measures[name].n) for name in names]


def check_verdict(probe, items, verdict="", words=""):
    """The result, which has this verdict ("" for any) and these words, is in range, and is JSON."""
    result = probe.measure(items)
    assert (verdict or result.verdict, words in result.sentence) == (result.verdict, True), result.sentence
    json.dumps(result.record())
    for name, measure in result.measures.items():
        low, high = measure.ends
        assert low <= high
        if measure.unit in ("share", "difference"):
            low, high = measure.ci95 or (measure.value, measure.value)
            assert (-1 if measure.unit == "difference" else 0) <= low <= high <= 1
            assert "coverage" in name or low - 1e-9 <= measure.value <= high + 1e-9
        else:
            assert measure.value >= 0
    return result
