"""Verdicts: the figures by hand, each level on either side of its threshold, and the words."""

import pytest

from medvlm_r1.audit.dataset.audit import THRESHOLDS, Figure, figure, judge
from medvlm_r1.evaluation.statistics import wilson


def known(percent, low, high, n=300):
    return Figure(n=n, percent=percent, ci95=(low, high))


def verdict(percent, low, high, *, chance=25.0, name="option_prior_loo", n=300, fit=None, modality="MRI"):
    figures = {
        "chance": known(chance, chance, chance, n),
        "majority": known(24.0, 19.0, 29.0, n),
        name: known(percent, low, high, n),
    }
    return judge(modality, figures, fit)


def independent(credits, **options):
    return figure(credits, range(len(credits)), **options)


def test_a_figure_counts_ties_in_fractions_and_subjects_once():
    result = independent([1, 0, 0.5, 0.5, 1, 0, 0, 0])
    assert (result.n, result.percent) == (8, 37.5)
    assert result.ci95 == tuple(100 * end for end in wilson(3, 8))
    assert figure([1] * 60, ["p"] * 60).ci95 == tuple(100 * end for end in wilson(1, 1))
    # Chance is known and not estimated.
    assert independent([0.5, 0.25], known=True) == Figure(n=2, percent=37.5, ci95=(37.5, 37.5))


BY_LOO = "(option prior, leave one out; chance 25 %)"


@pytest.mark.parametrize(
    ("ends", "options", "level", "words"),
    [
        (
            (97.2, 94.7, 98.6),
            {},
            "fail",
            f"97 % of the MRI questions can be answered without the image {BY_LOO}: "
            "an accuracy on this set is no evidence of image use.",
        ),
        (
            (46.7, 41.2, 52.4),
            {"name": "option_prior_fit", "fit": "MRI", "modality": "CT"},
            "fail",
            "47 % of the CT questions can be answered without the image (option prior fitted on MRI; chance 25 %): "
            "an accuracy no better than that is no evidence of image use.",
        ),
        (
            (33.0, 27.9, 38.5),
            {"name": "longest"},
            "warn",
            "33 % of the MRI questions can be answered without the image (longest option; chance 25 %): "
            "compare an accuracy with that figure, not with chance.",
        ),
        (
            (27.0, 22.0, 32.0),
            {},
            "pass",
            f"No blind baseline beats chance on the 300 MRI questions: the best of them gets 27 % {BY_LOO}.",
        ),
        (
            (30.0, 14.5, 52.0),
            {"n": 20},
            "not run",
            "20 MRI questions are too few for a verdict; at least 88 are needed. A blind baseline gets 30 % "
            f"{BY_LOO}, and up to 52 % would fit.",
        ),
        ((100.0, 20.7, 100.0), {"n": 1}, "not run", "One MRI question is too few for a"),
        ((79.9, 75.0, 84.0), {}, "fail", "an accuracy no better than that"),
        ((80.0, 75.0, 84.0), {}, "fail", "an accuracy on this set is no evidence"),
        # Each threshold from both sides.
        ((40.0, 35.0, 45.0), {}, "fail", ""),
        ((39.9, 34.9, 45.0), {}, "warn", ""),
        ((29.5, 25.1, 34.0), {}, "warn", ""),
        ((30.0, 25.0, 34.9), {}, "pass", ""),
        ((30.0, 25.0, 35.0), {}, "not run", ""),
        ((15.0, 10.0, 20.0), {}, "pass", ""),
    ],
)
def test_levels_and_words(ends, options, level, words):
    result = verdict(*ends, **options)
    assert (result.level, words in result.sentence) == (level, True), result.sentence
    assert level in THRESHOLDS


def test_which_baseline_decides():
    # That whose interval begins highest.
    figures = {"chance": known(25, 25, 25), "longest": known(60, 40, 80), "option_prior_loo": known(50, 45, 55)}
    assert judge("MRI", figures).baseline == "option_prior_loo"
    # A majority letter chosen after the fact does not count where the letters are even.
    figures = {"chance": known(25, 25, 25), "majority": known(62.5, 30.6, 86.3, 8), "longest": known(20, 5, 50, 8)}
    assert judge("MRI", figures).level == "warn"
    assert judge("MRI", figures, letters_uneven=False).level == "not run"
