"""The prevalence probe: by hand, and on models that lean to one side of yes/no and finding questions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audited import check_verdict, item, numbers, sample
from medvlm_r1.audit.probes.prevalence import PrevalenceProbe, absent_option
from medvlm_r1.audit.variant import REAL

probe = PrevalenceProbe()
KINDS = ("mass", "no finding", "cyst")


def answers(pairs, options=("Yes", "No"), subjects=None):
    """Items with (label, answer), given as indices of the options; the letters move."""
    items = []
    for number, (label, answer) in enumerate(pairs):
        moved = options[number % len(options) :] + options[: number % len(options)]
        subject = f"p{number % subjects}" if subjects else ""
        of = sample(number, options=moved, answer=options[label], subject=subject)
        items.append(item(of, {REAL: None if answer is None else options[answer]}))
    return items


def drawn(seed, sensitivity, specificity, prevalence=0.2, n=300):
    rng = np.random.default_rng(seed)
    present = [k < round(prevalence * n) for k in range(n)]
    said = [rng.random() < (sensitivity if true else 1 - specificity) for true in present]
    return answers([(int(not true), int(not yes)) for true, yes in zip(present, said, strict=True)], subjects=100)


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        (("Yes", "No"), "No"),
        (KINDS, "no finding"),
        (("Normal", "Abnormal"), "Normal"),
        (("Pneumonia", "No pneumonia"), "No pneumonia"),
        (("Present", "(absent)"), "(absent)"),
        (("head", "knee"), None),
        (("mass", "cyst", "None of the above"), None),
        (("Nodule", "Notch"), None),
        (("No", "None"), None),
        (("No",), None),
    ],
)
def test_the_option_that_denies(options, absent):
    assert absent_option(options) == absent


def test_the_measures_by_hand():
    pairs = [(0, 0), (0, 2), (2, 1), (1, 1), (1, 1), (1, 0), (1, None)]
    unrelated = item(sample(99), {REAL: "o0"})
    result = probe.measure([*answers(pairs, KINDS), unrelated])
    names = ("sensitivity", "specificity", "yes", "prevalence", "yes_minus_prevalence", "lean", "unparsed")
    # Another kind of finding than the correct one is still a finding.
    expected = [(2 / 3, 3), (2 / 3, 3), (1 / 2, 6), (1 / 2, 6), (0, 6), (0, 3), (1 / 7, 7)]
    assert numbers(result, *names) == expected
    assert result.items["present, but answered as absent"] == ["q0002"]
    assert result.items["absent, but answered as present"] == ["q0005"]
    assert '1 questions without an option such as "No"' in result.sentence


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_says_no_is_named_and_the_oracle_is_not(seed):
    result = check_verdict(probe, drawn(seed, 0.30, 0.99), words="It leans to no: it finds")
    assert result.verdict in ("fail", "warn")
    assert result.measures["yes_minus_prevalence"].ends[1] < 0
    check_verdict(probe, drawn(seed, 1, 1), "pass", "It recognizes both: it finds 60 of 60 that are present (100 %)")
    check_verdict(probe, drawn(seed, 0.9, 0.9), "pass")


@pytest.mark.parametrize(
    ("pairs", "verdict", "words"),
    [
        # Exactly 30 % of 60 and 99 % of 240.
        (
            [(0, 0)] * 18 + [(0, 1)] * 42 + [(1, 1)] * 238 + [(1, 0)] * 2,
            "fail",
            "yes to 7 % of 300 questions; yes is correct for 20 %.",
        ),
        ([(0, 0)] * 20 + [(1, 0)] * 40, "fail", "It leans to yes: it finds 20 of 20"),
        ([(0, 0), (1, 1)] * 14 + [(0, 1), (1, 0)] * 6, "warn", "It is not shown to recognize both"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)] * 50, "warn", "It is not shown to recognize both"),
        ([(0, 1), (1, 0)] * 30, "fail", "It does not recognize one side"),
        ([(0, 0)] * 9 + [(1, 1)] * 40, "not run", "9 questions with a positive label; at least 10 are needed"),
        ([(1, 1)] * 40, "not run", "0 questions with a positive label"),
        ([(0, 0), (1, 1)] * 10, "not run", "20 questions that can be answered with yes or no; at least 30"),
        ([(0, 0), (1, None)] * 30, "warn", "50 % of 60 answers were not parsed: no verdict"),
        ([(0, None)] * 40, "warn", "100 % of 40 answers were not parsed"),
    ],
)
def test_verdicts(pairs, verdict, words):
    check_verdict(probe, answers(pairs), verdict, words)


def test_without_such_questions_it_is_not_run():
    items = [item(sample(number), {REAL: "o0"}) for number in range(40)]
    assert check_verdict(probe, items, "not run", 'No question offers an option such as "No"').measures == {}
    assert (probe.first(None), probe.then(None, None)) == ([], [])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80))
def test_the_shares_agree_with_the_counts(pairs):
    measures = check_verdict(probe, answers(pairs)).measures
    table = np.zeros((2, 2))
    for label, answer in pairs:
        table[label, answer] += 1
    positives, negatives = table.sum(axis=1)
    if positives:
        assert measures["sensitivity"].value == pytest.approx(table[0, 0] / positives)
    if negatives:
        assert measures["specificity"].value == pytest.approx(table[1, 1] / negatives)
    assert measures["yes_minus_prevalence"].value == pytest.approx((table[1, 0] - table[0, 1]) / len(pairs))
