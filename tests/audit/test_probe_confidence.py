"""The confidence probe against counts worked out by hand, and what must not change them."""

import numpy as np
import pytest

from audited import UNREADABLE, check_verdict, probe_input, reply, sample
from medvlm_r1.audit.measures import FEWEST
from medvlm_r1.audit.probes.confidence import VOTES, ConfidenceProbe, confidence
from medvlm_r1.audit.variant import REAL, AuditedItem, scored_choice
from medvlm_r1.evaluation import calibration

probe = ConfidenceProbe()


def sure(number, *, right=True, stated=0.9, votes=VOTES, parsed=True, subject=""):
    """An item of three options answered "o0", stated with this probability and agreed to by so many votes."""
    of = sample(number, k=3, right=0 if right else 1, subject=subject)
    texts = {letter: f"<think>So.</think><answer>{letter}</answer>" for letter in "AB"}
    answers = {REAL: reply(of, texts["A"] if parsed else UNREADABLE)}
    if votes is not None:
        for i, variant in enumerate(probe.first(probe_input(of))):
            # The last vote against is unparsed: it does not agree either.
            text = texts["A"] if i < votes else UNREADABLE if i == VOTES - 1 else texts["B"]
            answers[variant.name] = reply(of, text, variant.name)
    if stated is not None:
        for variant in probe.then(probe_input(of), answers[REAL]):
            answers[variant.name] = scored_choice(variant, [stated, (1 - stated) / 2, (1 - stated) / 2])
    return AuditedItem(sample=of, answers=answers)


def test_the_variants():
    made_of = probe_input(sample())
    votes = probe.first(made_of)
    assert [variant.name for variant in votes] == [f"vote-{i}" for i in range(VOTES)]
    assert len({variant.seed for variant in votes}) == VOTES
    assert {variant.temperature for variant in votes} == {1.0}
    [stated] = probe.then(made_of, reply(made_of.sample, "<think>So.\n</think>\n<answer> B </answer>"))
    assert (stated.name, stated.prefix, stated.letter_only) == ("stated", "<think>So.\n</think>\n<answer>", True)
    for unparsed in ("The answer is B.", "<answer>Z</answer>", ""):
        assert probe.then(made_of, reply(made_of.sample, unparsed)) == []
    of, nothing = sure(0, stated=0.2, votes=3), sure(0, stated=None, votes=None)
    # The most probable letter here is another one; the answer given is o0.
    assert (confidence(of, "stated"), confidence(of, "vote")) == (0.2, pytest.approx(3 / VOTES))
    assert confidence(nothing, "stated") is confidence(nothing, "vote") is None


def test_measures_by_hand():
    items = [
        sure(0, stated=0.95, votes=5),
        sure(1, stated=0.90, votes=4),
        sure(2, stated=0.60, votes=2, right=False),
        sure(3, stated=0.97, votes=1, right=False),
        sure(4, parsed=False, stated=None),
    ]
    result = check_verdict(probe, items)
    expected = {
        "unparsed": 0.2,
        # Stated: 0.95 and 0.90 correct, 0.60 and 0.97 wrong: two of four pairs in order.
        "stated_auroc": 0.5,
        "vote_auroc": 1,
        "stated_brier": (0.05**2 + 0.1**2 + 0.6**2 + 0.97**2) / 4,
        "vote_brier": (0 + 0.2**2 + 0.4**2 + 0.2**2) / 4,
        # Four answers, four bins: each its own.
        "stated_ece": (0.05 + 0.1 + 0.6 + 0.97) / 4,
        "vote_aurc": (0 + 0 + 1 / 3 + 1 / 2) / 4,
        "vote_coverage_5": 0.5,
        "stated_coverage_5": 0,
        "stated_confidently_wrong": 0.25,
    }
    assert {name: result.measures[name].value for name in expected} == pytest.approx(expected)
    assert result.measures["stated_auroc"].n == 4
    assert result.items["the answer was not parsed"] == ["q0004"]
    assert result.items["wrong at a confidence of 90% or more (stated)"] == ["q0003"]
    curve = result.detail["vote"]["risk_coverage"]
    assert curve == [(1, 0.25, 0), (0.8, 0.5, 0), (0.4, 0.75, 1 / 3), (0.2, 1, 0.5)]
    assert result.detail["vote"]["reliability"][0] == pytest.approx([0.2, 0, 1])
    assert result.verdict == "not run"


def test_temperature_is_evaluated_on_the_half_it_was_not_fitted_on():
    rng = np.random.default_rng(0)
    # States 0.99, is correct in 70 of 100: to be heated.
    items = [sure(i, stated=0.99, right=bool(rng.random() < 0.7), subject=f"s{i // 2}") for i in range(200)]
    measures = probe.measure(items).measures
    chosen = calibration.halves([of.sample.subject for of in items], seed=0)
    fit, rest = ([of for of, fitted in zip(items, chosen, strict=True) if fitted == half] for half in (True, False))
    # Subjects are not torn apart.
    assert not {of.sample.subject for of in fit} & {of.sample.subject for of in rest}
    temperature = calibration.fit_temperature(
        [of.answers["stated"].probabilities or () for of in fit],
        [of.sample.options.index(of.sample.answer) for of in fit],
    )
    assert measures["temperature"].value == temperature > 2
    assert (measures["temperature"].n, measures["ece_after_scaling"].n) == (len(fit), len(rest))
    share = np.mean([of.correct() for of in rest])
    [[after, *_]] = calibration.temperature_scale([[0.99, 0.005, 0.005]], temperature)
    assert measures["ece_before_scaling"].value == pytest.approx(abs(0.99 - share))
    assert measures["ece_after_scaling"].value == pytest.approx(abs(after - share))
    for name in ("brier", "nll"):
        assert measures[f"{name}_after_scaling"].value < measures[f"{name}_before_scaling"].value


def half(knows, n=100):
    """Half correct; the wrong ones less sure, or as sure."""
    return [sure(i, right=i % 2 == 0, stated=0.95 if i % 2 == 0 or not knows else 0.5, votes=None) for i in range(n)]


def voting(n, stated):
    """Half correct; only the votes separate them."""
    return [sure(i, right=i % 2 == 0, stated=stated, votes=5 if i % 2 == 0 else 2) for i in range(n)]


@pytest.mark.parametrize(
    ("items", "verdict", "words"),
    [
        (half(True), "pass", "shows when to defer"),
        (half(False), "fail", "does not separate correct from wrong answers"),
        (half(True, FEWEST - 2), "not run", "28 answers with a confidence; at least 30 are needed"),
        ([sure(i) for i in range(100)], "pass", "hardly anything to defer"),
        ([sure(i, right=i > 7) for i in range(100)], "not run", "8 wrong answers for confidence to separate; at least"),
        ([sure(i, right=i < 5) for i in range(100)], "not run", "5 correct answers for confidence to separate; at"),
        ([sure(i, parsed=i % 3 > 0) for i in range(100)], "warn", "34% of 100 answers were not parsed"),
        # Unparsed answers are something to defer.
        ([sure(i, parsed=i % 6 > 0) for i in range(300)], "not run", "50 of 300 answers were not parsed"),
        ([sure(0, parsed=False)], "not run", "No answer has a confidence"),
        ([sure(i, stated=None, votes=None) for i in range(40)], "not run", "No answer has a confidence"),
        # The better confidence is judged and named.
        (voting(100, 0.95), "pass", f"by the vote of {VOTES} samples"),
        (voting(60, None), "pass", f"by the vote of {VOTES} samples"),
        # It separates well, but all confidences are above 0.9.
        ([sure(i, right=i % 2 == 0, stated=0.99 - i % 2 / 25, votes=None) for i in range(100)], "warn", "AUROC 1.00"),
    ],
)
def test_verdicts(items, verdict, words):
    result = check_verdict(probe, items, verdict, words)
    if not any("stated" in of.answers for of in items):
        # For a model on a server the votes remain.
        assert not any(name.startswith(("stated", "temperature")) for name in result.measures)
