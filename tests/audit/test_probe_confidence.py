"""The confidence probe against counts worked out by hand, and what must not change them."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from audited import UNREADABLE, asked, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_r1.audit.measures import FEWEST
from medvlm_r1.audit.probes.confidence import VOTES, ConfidenceProbe, confidence
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, parsed_answer, scored_choice
from medvlm_r1.evaluation import calibration

probe = ConfidenceProbe()


def sure(
    number: int,
    *,
    right: bool = True,
    stated: float | None = 0.9,
    votes: int | None = VOTES,
    read: bool = True,
    subject: str = "",
) -> AuditedItem:
    """An item of three options answered "o0", stated with this probability and agreed to by so many votes."""
    of = sample(number, k=3, right=0 if right else 1, subject=subject)
    given_ = asked(of)

    def wrote(variant: Variant, letter: str | None) -> object:
        text = UNREADABLE if letter is None else f"<think>So.</think><answer>{letter}</answer>"
        return parsed_answer(variant, text, n_tokens=3, truncated=False)

    real = wrote(Variant(name=REAL, sample=of, images=given_.images), "A" if read else None)
    answers = {REAL: real}
    if votes is not None:
        for i, variant in enumerate(probe.first(given_)):
            # The last vote against cannot be read: it does not agree either.
            answers[variant.name] = wrote(variant, "A" if i < votes else None if i == VOTES - 1 else "B")
    for variant in probe.then(given_, real) if stated is not None else ():  # type: ignore[arg-type]
        answers[variant.name] = scored_choice(variant, [stated or 0, *[(1 - (stated or 0)) / 2] * 2])
    return AuditedItem(sample=of, answers=answers)  # type: ignore[arg-type]


def test_the_variants() -> None:
    of = asked(sample())
    votes = probe.first(of)
    assert [variant.name for variant in votes] == [f"vote-{i}" for i in range(VOTES)]
    assert len({variant.seed for variant in votes}) == VOTES
    assert {variant.temperature for variant in votes} == {1.0}
    text = "<think>So.\n</think>\n<answer> B </answer>"
    real = parsed_answer(Variant(name=REAL, sample=of.sample, images=of.images), text, n_tokens=5, truncated=False)
    [stated] = probe.then(of, real)
    assert (stated.name, stated.prefix, stated.letter_only) == ("stated", "<think>So.\n</think>\n<answer>", True)
    for lost in ("The answer is B.", "<answer>Z</answer>", ""):
        unread = parsed_answer(
            Variant(name=REAL, sample=of.sample, images=of.images), lost, n_tokens=5, truncated=False
        )
        assert probe.then(of, unread) == []


def test_both_confidences_are_those_in_the_real_answer() -> None:
    item = sure(0, stated=0.2, votes=3)
    # The letter that is weighed most here is another one; the answer given is o0.
    assert confidence(item, "stated") == 0.2
    assert confidence(item, "vote") == pytest.approx(3 / VOTES)
    assert confidence(sure(0, stated=None, votes=None), "stated") is None
    assert confidence(sure(0, stated=None, votes=None), "vote") is None


def test_measures_by_hand() -> None:
    items = [
        sure(0, stated=0.95, votes=5),
        sure(1, stated=0.90, votes=4),
        sure(2, stated=0.60, votes=2, right=False),
        sure(3, stated=0.97, votes=1, right=False),
        sure(4, read=False, stated=None),
    ]
    found = probe.measure(items)
    measures = found.measures
    assert measures["unparsed"].value == 0.2
    assert found.items["the answer was not parsed"] == ["q0004"]
    # Stated: 0.95 and 0.90 right, 0.60 and 0.97 wrong: two of four pairs in order.
    assert (measures["stated_auroc"].value, measures["stated_auroc"].n) == (0.5, 4)
    assert measures["vote_auroc"].value == 1
    assert measures["stated_brier"].value == pytest.approx((0.05**2 + 0.1**2 + 0.6**2 + 0.97**2) / 4)
    assert measures["vote_brier"].value == pytest.approx((0 + 0.2**2 + 0.4**2 + 0.2**2) / 4)
    # Four answers, four bins: each its own.
    assert measures["stated_ece"].value == pytest.approx((0.05 + 0.1 + 0.6 + 0.97) / 4)
    assert measures["vote_aurc"].value == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert (measures["vote_coverage_5"].value, measures["stated_coverage_5"].value) == (0.5, 0)
    assert measures["stated_confidently_wrong"].value == 0.25
    assert found.items["wrong at a confidence of 90% or more (stated)"] == ["q0003"]
    assert found.detail["vote"]["risk_coverage"] == [[1, 0.25, 0], [0.8, 0.5, 0], [0.4, 0.75, 1 / 3], [0.2, 1, 0.5]]
    assert found.detail["vote"]["reliability"][0] == pytest.approx([0.2, 0, 1])
    assert found.verdict == "not run"


def test_temperature_is_told_on_the_half_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(0)
    # Says 0.99, is right in 70 of 100: to be heated.
    items = [sure(i, stated=0.99, right=bool(rng.random() < 0.7), subject=f"s{i // 2}") for i in range(200)]
    found = probe.measure(items)
    fit = calibration.halves([item.sample.subject for item in items], seed=0)
    rest = [item for item, chosen in zip(items, fit, strict=True) if not chosen]
    truth = [item.sample.options.index(item.sample.answer) for item in items]
    rows = [item.answers["stated"].probabilities or () for item in items]
    temperature = calibration.fit_temperature(
        [row for row, chosen in zip(rows, fit, strict=True) if chosen],
        [t for t, f in zip(truth, fit, strict=True) if f],
    )
    measures = found.measures
    assert measures["temperature"].value == temperature > 2
    assert (measures["temperature"].n, measures["ece_after_scaling"].n) == (sum(fit), len(rest))
    right = np.mean([item.correct() for item in rest])
    assert measures["ece_before_scaling"].value == pytest.approx(abs(0.99 - right))
    after = float(calibration.temperature_scale([[0.99, 0.005, 0.005]], temperature)[0][0])
    assert measures["ece_after_scaling"].value == pytest.approx(abs(after - right))
    assert measures["brier_after_scaling"].value < measures["brier_before_scaling"].value
    assert measures["nll_after_scaling"].value < measures["nll_before_scaling"].value
    # Subjects are not torn apart.
    assert not {item.sample.subject for item, chosen in zip(items, fit, strict=True) if chosen} & {
        item.sample.subject for item in rest
    }


def half(knows: bool, n: int = 100) -> list[AuditedItem]:
    """Half right; the wrong ones less sure, or as sure."""
    return [sure(i, right=i % 2 == 0, stated=0.95 if i % 2 == 0 or not knows else 0.5, votes=None) for i in range(n)]


@pytest.mark.parametrize(
    ("items", "verdict", "words"),
    [
        (half(True), "pass", "shows when to defer"),
        (half(False), "fail", "does not separate correct from wrong answers"),
        (half(True, FEWEST - 2), "not run", "28 answers with a confidence; at least 30 are needed"),
        ([sure(i) for i in range(100)], "pass", "hardly anything to defer"),
        ([sure(i, right=i > 7) for i in range(100)], "not run", "8 wrong answers for confidence to separate; at least"),
        ([sure(i, right=i < 5) for i in range(100)], "not run", "5 correct answers for confidence to separate; at"),
        ([sure(i, read=i % 3 > 0) for i in range(100)], "warn", "34% of 100 answers were not parsed"),
        ([sure(0, read=False)], "not run", "No answer has a confidence"),
        ([sure(i, stated=None, votes=None) for i in range(40)], "not run", "No answer has a confidence"),
    ],
)
def test_verdicts(items: list[AuditedItem], verdict: str, words: str) -> None:
    found = probe.measure(items)
    assert (found.verdict, words in found.sentence) == (verdict, True), found.sentence


def test_what_could_not_be_read_is_something_to_defer() -> None:
    found = probe.measure([sure(i, read=i % 6 > 0) for i in range(300)])
    assert found.verdict == "not run"
    assert "0 wrong answers for confidence to separate; at least 10 are needed" in found.sentence
    assert "50 of 300 answers were not parsed" in found.sentence


def test_the_better_confidence_is_judged_and_named() -> None:
    items = [sure(i, right=i % 2 == 0, stated=0.95, votes=5 if i % 2 == 0 else 2) for i in range(100)]
    found = probe.measure(items)
    assert found.verdict == "pass"
    assert f"by the vote of {VOTES} samples" in found.sentence


def test_many_certain_and_wrong_are_no_pass() -> None:
    # It separates well, but all it says is above 0.9.
    items = [sure(i, right=i % 2 == 0, stated=0.99 if i % 2 == 0 else 0.95, votes=None) for i in range(100)]
    found = probe.measure(items)
    assert (found.verdict, found.measures["stated_auroc"].value) == ("warn", 1)


def test_of_a_server_the_votes_are_left() -> None:
    found = probe.measure([sure(i, right=i % 2 == 0, stated=None, votes=5 if i % 2 == 0 else 2) for i in range(60)])
    assert found.verdict == "pass"
    assert not any(name.startswith("stated") for name in found.measures)
    assert "temperature" not in found.measures


item_kinds = st.tuples(st.booleans(), st.sampled_from([0.4, 0.9, 0.99]), st.integers(0, VOTES), st.booleans())


@settings(max_examples=5, deadline=None)
@given(st.lists(item_kinds, min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_ranges_and_the_order_of_the_items(kinds: list[tuple[bool, float, int, bool]], rng: random.Random) -> None:
    items = [
        sure(i, right=right, stated=stated, votes=votes, read=read, subject=f"s{i // 2}")
        for i, (right, stated, votes, read) in enumerate(kinds)
    ]
    found = probe.measure(items)
    assert probe.measure(rng.sample(items, len(items))) == found
    for name, measure in found.measures.items():
        if not name.startswith(("temperature", "nll")):
            assert 0 <= measure.value <= 1 + 1e-12
            low, high = measure.ci95 or (0, 1)
            assert 0 <= low <= high <= 1 + 1e-12
    json.dumps(found.record())
