"""The verdicts of the consistency checks: pure functions of two answers."""

from __future__ import annotations

import pytest

from medvlm_r1.report.case import CaseReply
from medvlm_r1.serving.page.case import CHECKS, judge


def reply(answer: str | None) -> CaseReply:
    """`A) cyst` as a letter and its option; any other text as an open answer."""
    letter, bracket, text = (answer or "").partition(") ")
    return CaseReply(letter=letter, text=text) if bracket else CaseReply(text=answer)


@pytest.mark.parametrize(
    ("check", "original", "changed", "tone", "sentence"),
    [
        ("blank", "A) cyst", "A) cyst", "fail", "The answer does not change without the image."),
        ("blank", "A) cyst", "B) mass", "pass", "The answer depends on the image: without it, it is B) mass."),
        ("mirrored", "A) cyst", "A) cyst", "pass", "The answer is the same in the mirrored image."),
        ("mirrored", "A) cyst", "B) mass", "warn", "The answer changes in the mirrored image, to B) mass."),
        ("shifted", "A) cyst", "D) cyst", "pass", "The same option is chosen under another letter."),
        ("shifted", "A) cyst", "A) mass", "fail", "The letter A stays, now for another option: the answer follows"),
        ("shifted", "A) cyst", "C) mass", "fail", "With shifted options the answer is C) mass."),
        ("no reasoning", "A) cyst", "A) cyst", "plain", "The answer is the same without reasoning: the reasoning did"),
        ("no reasoning", "A) cyst", "B) mass", "warn", "Without reasoning the answer is B) mass: the reasoning deci"),
        # Open answers are compared without case, spaces and a final full stop; long ones are shortened.
        ("blank", "A  Cyst.", "a cyst", "fail", "The answer does not change"),
        ("blank", "a cyst", "x" * 200, "pass", f"without it, it is “{'x' * 77}...”."),
        *((check, None, "A) cyst", "plain", "There was no answer in the required format") for check in CHECKS),
        *((check, "A) cyst", None, "plain", "the model gives no answer in the required") for check in CHECKS),
    ],
)
def test_each_check_has_its_verdict(check, original, changed, tone, sentence) -> None:
    verdict = judge(check, reply(original), reply(changed), question="Which finding?", options=("cyst", "mass"))
    assert verdict[1] == tone
    assert sentence in verdict[0]


@pytest.mark.parametrize(
    ("question", "options", "original", "changed", "tone", "sentence"),
    [
        ("Which side?", "left|right", "A) left", "A) left", "fail", "does not change when left and right are"),
        ("Which side?", "left|right", "A) left", "B) right", "pass", "changes with the image, as it should"),
        ("", "Left lobe|Right lobe|none", "A) Left lobe", "B) Right lobe", "pass", "as it should"),
        # A side that every option names need not change.
        ("", "left lung|left kidney", "A) left lung", "A) left lung", "pass", "the same in the mirrored image"),
        ("", "left|right|no finding", "A) left", "C) no finding", "warn", "changes in the mirrored image, to C)"),
    ],
)
def test_a_side_must_change_with_the_mirror(question, options, original, changed, tone, sentence) -> None:
    verdict = judge("mirrored", reply(original), reply(changed), question=question, options=tuple(options.split("|")))
    assert verdict[1] == tone
    assert sentence in verdict[0]
