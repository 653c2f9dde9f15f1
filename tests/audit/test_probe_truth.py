"""The truth probe against counts worked out by hand, and what must not change them."""

import dataclasses
import json

import pytest

from audited import check_verdict, numbers, probe_input, reply, sample
from medvlm_r1.audit.measures import FEWEST
from medvlm_r1.audit.probes.truth import TruthProbe
from medvlm_r1.audit.variant import REAL, AuditedItem
from medvlm_r1.phantom.scene import Scene

probe = TruthProbe()
CYST = Scene("MRI", "knee", "axial", "T1-weighted", "cyst", "left", "small", (1, 2))
CLEAR = Scene("MRI", "knee", "axial", "T1-weighted", "none", None, None, (1, 3))
TRUE = "Axial T1-weighted MRI of the knee. There is a small cyst on the patient's left."
CALM = "Axial T1-weighted MRI of the knee. There is no finding."
FALSE = "Coronal T2-weighted MRI of the knee. There is a large mass on the patient's left."


def claimed(number, scene, reasoning, *, right=True, **changes):
    """An item on the region whose real answer has this reasoning; None is an unparsed answer."""
    truth = {} if scene is None else {"asks": "region", "images": [scene.truth()]}
    of = sample(number, options=("knee", "head"), answer="knee", truth=json.loads(json.dumps(truth)), **changes)
    text = "" if reasoning is None else f"<think>{reasoning}</think><answer>{'A' if right else 'B'}</answer>"
    return AuditedItem(sample=of, answers={REAL: reply(of, text)})


def test_measures_by_hand():
    items = [
        claimed(0, CYST, TRUE),  # 7 true
        claimed(1, CYST, TRUE.replace("small", "large")),  # 6 true, 1 false
        claimed(2, CYST, TRUE.replace("knee", "head")),  # correct against its own reasoning
        claimed(3, CYST, TRUE, right=False),  # wrong for a correct reason
        claimed(4, CYST, CALM, right=False),  # 4 true, misses the finding
        claimed(5, CLEAR, CALM),  # 5 true
        claimed(6, CLEAR, TRUE),  # finding, size and side made up: 4 true, 3 false
        claimed(7, CLEAR, "I have seen an image like this before."),
        claimed(8, CYST, None),
        claimed(9, None, TRUE),  # not of the phantom
    ]
    question = probe_input(items[0].sample)
    assert probe.first(question) == probe.then(question, items[0].real) == []
    result = check_verdict(probe, items)
    expected = {
        "true": (39 / 45, 7 + 7 + 7 + 7 + 5 + 5 + 7),
        "true_size": (3 / 5, 5),
        "true_region": (6 / 7, 7),
        "claiming": (7 / 9, 9),
        # Of five correct answers three come with a false claim, and one is wrong on the region itself.
        "right_for_wrong_reason": (3 / 5, 5),
        "right_against_reason": (1 / 5, 5),
        "wrong_for_right_reason": (0.5, 2),
        "sensitivity": (0.8, 5),
        "specificity": (0.5, 2),
    }
    assert list(expected.values()) == numbers(result, *expected)
    assert result.items == {
        "correct for a wrong reason": ["q0001", "q0002", "q0006"],
        "wrong for a correct reason": ["q0003"],
        "finding missed": ["q0004"],
        "finding made up": ["q0006"],
        "no claim to check": ["q0007", "q0008"],
    }
    assert result.detail["finding_by_kind"] == {"cyst": {"n": 5, "a finding claimed": 4, "this kind claimed": 4}}
    assert result.detail["false_claims"] == dict.fromkeys(
        ["finding: cyst", "finding: none", "region: head", "side: left", "size: large", "size: small"], 1
    )


def test_a_claim_that_cannot_be_seen_is_neither_true_nor_false():
    result = probe.measure([claimed(0, dataclasses.replace(CYST, plane="sagittal"), "A cyst on the right.")])
    assert numbers(result, "true", "cannot_be_seen") == [(1, 1), (0.5, 2)]
    # An answer without tags is read whole.
    audited = claimed(0, CYST, TRUE)
    bare = dataclasses.replace(audited.real, text=f"{TRUE} The answer is A.")
    assert probe.measure([AuditedItem(sample=audited.sample, answers={REAL: bare})]).measures["true"].n == 7


@pytest.mark.parametrize(
    ("scene", "texts", "verdict", "words"),
    [
        (CYST, [TRUE] * 60, "pass", "Its claims are true"),
        (CYST, [FALSE] * 60, "fail", "Its claims cannot be trusted"),
        (CYST, [FALSE] * 20 + [TRUE] * 40, "warn", "Its claims need checking"),
        (CYST, [TRUE] * (FEWEST - 1), "not run", "29 reasonings with a claim to check"),
        (CYST, ["So."] * 60 + [TRUE] * 40, "warn", "60 of 100 reasonings have no claim that can be checked"),
        (CYST, ["So it is.", None], "not run", "None of 2 reasonings"),
        (None, [TRUE], "not run", "no record"),
    ],
)
def test_verdicts(scene, texts, verdict, words):
    check_verdict(probe, [claimed(i, scene, text) for i, text in enumerate(texts)], verdict, words)
