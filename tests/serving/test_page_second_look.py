"""The verdicts of the second look: pure functions of two answers."""

from __future__ import annotations

import pytest

from medvlm_r1.serving.page.case import Heard
from medvlm_r1.serving.page.second_look import WAYS, judge

CYST, MASS = Heard("A", "cyst"), Heard("B", "mass")


@pytest.mark.parametrize(
    ("way", "again", "sentence", "tone"),
    [
        ("blank", CYST, "The answer does not change without the image.", "fail"),
        ("blank", MASS, "The answer depends on the image: without it, it is B) mass.", "pass"),
        ("mirrored", CYST, "The answer is the same in the mirrored image.", "pass"),
        ("mirrored", MASS, "The answer changes in the mirrored image, to B) mass.", "warn"),
        ("shifted", Heard("D", "cyst"), "The same option is chosen under another letter.", "pass"),
        (
            "shifted",
            Heard("A", "mass"),
            "The letter A stays, now for another option: the answer follows the position, not the text.",
            "fail",
        ),
        ("shifted", Heard("C", "mass"), "With shifted options the answer is C) mass.", "fail"),
        (
            "no reasoning",
            CYST,
            "The answer is the same without reasoning: the reasoning did not decide it.",
            "plain",
        ),
        ("no reasoning", MASS, "Without reasoning the answer is B) mass: the reasoning decided it.", "warn"),
    ],
)
def test_each_way_has_its_verdict(way, again, sentence, tone) -> None:
    verdict = judge(way, CYST, again, question="Which finding?", options=("cyst", "mass"))
    assert (verdict.sentence, verdict.tone) == (sentence, tone)


@pytest.mark.parametrize("way", WAYS)
def test_without_an_answer_nothing_is_concluded(way) -> None:
    none = Heard(None, None)
    assert judge(way, none, CYST).tone == judge(way, CYST, none).tone == "plain"
    assert judge(way, none, none).sentence == "There was no answer in the required format to compare with."


LEFT, RIGHT = Heard("A", "left"), Heard("B", "right")
SIDES = ("left", "right")


def test_a_side_must_change_with_the_mirror() -> None:
    kept = judge("mirrored", LEFT, LEFT, question="Which side?", options=SIDES)
    assert kept.tone == "fail"
    assert kept.sentence == "The named side does not change when left and right are exchanged."
    changed = judge("mirrored", LEFT, RIGHT, question="Which side?", options=SIDES)
    assert (changed.tone, changed.sentence) == ("pass", "The named side changes with the image, as it should.")


def test_a_side_within_an_option_counts_too() -> None:
    options = ("Left lower lobe", "Right lower lobe", "none")
    changed = judge("mirrored", Heard("A", options[0]), Heard("B", options[1]), options=options)
    assert changed.tone == "pass"


def test_a_side_that_every_option_has_need_not_change() -> None:
    options = ("left lung", "left kidney")
    assert judge("mirrored", Heard("A", options[0]), Heard("A", options[0]), options=options).tone == "pass"


def test_a_third_answer_to_a_side_is_told() -> None:
    verdict = judge("mirrored", LEFT, Heard("C", "no finding"), options=(*SIDES, "no finding"))
    assert (verdict.tone, verdict.sentence) == ("warn", "The answer changes in the mirrored image, to C) no finding.")


def test_open_answers_are_compared_but_for_case_spaces_and_full_stop() -> None:
    assert judge("blank", Heard(None, "A  Cyst."), Heard(None, "a cyst")).tone == "fail"
    changed = judge("blank", Heard(None, "a cyst"), Heard(None, "x" * 200))
    assert changed.tone == "pass"
    assert len(changed.sentence) < 150
