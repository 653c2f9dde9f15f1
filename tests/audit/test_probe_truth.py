"""The truth probe against counts worked out by hand, and what must not change them."""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

import pytest
from audited import asked, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_r1.audit.measures import FEWEST
from medvlm_r1.audit.probes.truth import TruthProbe
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, parsed_answer
from medvlm_r1.phantom.scene import Scene

probe = TruthProbe()
CYST = Scene("MRI", "knee", "axial", "T1-weighted", "cyst", "left", "small", (1, 2))
CLEAR = Scene("MRI", "knee", "axial", "T1-weighted", "none", None, None, (1, 3))
TRUE = "Axial T1-weighted MRI of the knee. There is a small cyst on the patient's left."
CALM = "Axial T1-weighted MRI of the knee. There is no finding."


def claimed(
    number: int, scene: Scene | None, reasoning: str | None, *, right: bool = True, **changes: Any
) -> AuditedItem:
    """An item on the region whose real answer has this reasoning; None is an answer that cannot be read."""
    record = {} if scene is None else {"attribute": "region", "scene": dataclasses.asdict(scene)}
    of = sample(number, options=("knee", "head"), answer="knee", record=json.loads(json.dumps(record)), **changes)
    text = "" if reasoning is None else f"<think>{reasoning}</think><answer>{'A' if right else 'B'}</answer>"
    variant = Variant(name=REAL, sample=of, images=asked(of).images)
    return AuditedItem(sample=of, answers={REAL: parsed_answer(variant, text, n_tokens=9, truncated=False)})


def test_no_variant_is_asked() -> None:
    of = claimed(0, CYST, TRUE)
    assert not probe.first(asked(of.sample))
    assert not probe.then(asked(of.sample), of.real)


def test_measures_by_hand() -> None:
    items = [
        claimed(0, CYST, TRUE),  # 7 true
        claimed(1, CYST, TRUE.replace("small", "large")),  # 6 true, 1 false
        claimed(2, CYST, TRUE.replace("knee", "head")),  # right against its own reasoning
        claimed(3, CYST, TRUE, right=False),  # wrong for a correct reason
        claimed(4, CYST, CALM, right=False),  # 4 true, misses the finding
        claimed(5, CLEAR, CALM),  # 5 true
        claimed(6, CLEAR, TRUE),  # finding, size and side made up: 4 true, 3 false
        claimed(7, CLEAR, "I have seen an image like this before."),
        claimed(8, CYST, None),
        claimed(9, None, TRUE),  # not of the phantom
    ]
    found = probe.measure(items)
    measures = found.measures
    assert (measures["true"].value, measures["true"].n) == (pytest.approx(39 / 45), 7 + 7 + 7 + 7 + 5 + 5 + 7)
    assert (measures["true_size"].value, measures["true_size"].n) == (pytest.approx(3 / 5), 5)
    assert (measures["true_region"].value, measures["true_region"].n) == (pytest.approx(6 / 7), 7)
    assert (measures["claiming"].value, measures["claiming"].n) == (pytest.approx(7 / 9), 9)
    # Of five right answers three come with a false claim, and one is wrong on the region itself.
    assert (measures["right_for_wrong_reason"].value, measures["right_for_wrong_reason"].n) == (pytest.approx(3 / 5), 5)
    assert measures["right_against_reason"].value == pytest.approx(1 / 5)
    assert (measures["wrong_for_right_reason"].value, measures["wrong_for_right_reason"].n) == (0.5, 2)
    assert (measures["sensitivity"].value, measures["sensitivity"].n) == (0.8, 5)
    assert (measures["specificity"].value, measures["specificity"].n) == (0.5, 2)
    assert found.items["correct for a wrong reason"] == ["q0001", "q0002", "q0006"]
    assert found.items["wrong for a correct reason"] == ["q0003"]
    assert found.items["finding missed"] == ["q0004"]
    assert found.items["finding made up"] == ["q0006"]
    assert found.items["no claim to check"] == ["q0007", "q0008"]
    assert found.detail["finding_by_kind"] == {"cyst": {"n": 5, "a finding claimed": 4, "this kind claimed": 4}}
    assert found.detail["false_claims"] == {
        "finding: cyst": 1, "finding: none": 1, "region: head": 1, "side: left": 1, "size: large": 1, "size: small": 1
    }  # fmt: skip


def test_a_claim_that_cannot_be_seen_is_neither_true_nor_false() -> None:
    sagittal = dataclasses.replace(CYST, plane="sagittal")
    found = probe.measure([claimed(0, sagittal, "A cyst on the right.")])
    assert (found.measures["true"].value, found.measures["true"].n) == (1, 1)
    assert found.measures["cannot_be_seen"].value == 0.5


def test_an_answer_without_tags_is_read_whole() -> None:
    of = claimed(0, CYST, TRUE)
    bare = dataclasses.replace(of.real, text=f"{TRUE} The answer is A.")
    found = probe.measure([AuditedItem(sample=of.sample, answers={REAL: bare})])
    assert found.measures["true"].n == 7


def test_not_run_says_why() -> None:
    found = probe.measure([claimed(0, None, TRUE)])
    assert (found.verdict, found.measures) == ("not run", {})
    assert "no record" in found.sentence
    found = probe.measure([claimed(0, CYST, "So it is."), claimed(1, CYST, None)])
    assert found.verdict == "not run"
    assert "None of 2 reasonings" in found.sentence


@pytest.mark.parametrize(
    ("wrong", "n", "verdict"), [(0, 60, "pass"), (60, 60, "fail"), (20, 60, "warn"), (0, FEWEST - 1, "not run")]
)
def test_verdicts(wrong: int, n: int, verdict: str) -> None:
    false = "Coronal T2-weighted MRI of the knee. There is a large mass on the patient's left."
    items = [claimed(i, CYST, false if i < wrong else TRUE) for i in range(n)]
    assert probe.measure(items).verdict == verdict


def test_where_most_claim_nothing_there_is_no_pass() -> None:
    items = [claimed(i, CYST, TRUE if i < 40 else "So.") for i in range(100)]
    found = probe.measure(items)
    assert found.verdict == "warn"
    assert "60 of 100 reasonings have no claim that can be checked" in found.sentence


def test_claims_of_one_subject_are_not_worth_as_much() -> None:
    alone = probe.measure([claimed(i, CYST, TRUE if i % 2 else CALM) for i in range(40)]).measures["true"]
    together = probe.measure(
        [claimed(i, CYST, TRUE if i % 2 else CALM, subject=f"s{i % 2}") for i in range(40)]
    ).measures["true"]
    assert alone.value == together.value
    assert alone.ci95 is not None
    assert together.ci95 is not None
    assert together.ci95[1] - together.ci95[0] > alone.ci95[1] - alone.ci95[0]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([CYST, CLEAR]), st.sampled_from([TRUE, CALM, "So.", None]), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_ranges_and_the_order_of_the_items(found: list[tuple[Scene, str | None, bool]], rng: random.Random) -> None:
    items = [claimed(i, scene, text, right=right) for i, (scene, text, right) in enumerate(found)]
    result = probe.measure(items)
    assert probe.measure(rng.sample(items, len(items))) == result
    for measure in result.measures.values():
        assert measure.ci95 is not None
        assert 0 <= measure.ci95[0] <= measure.value + 1e-9
        assert measure.value - 1e-9 <= measure.ci95[1] <= 1
    json.dumps(result.record())
