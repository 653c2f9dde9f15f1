import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audited import sample
from benchmarks.base.language import reasoned
from medvlm_r1.audit.claims import (
    ANY,
    ATTRIBUTES,
    Claim,
    affirmed_labels,
    claims_finding,
    holds,
    question_attribute,
    read_claims,
    scene_of,
)
from medvlm_r1.phantom.benchmark import to_sample
from medvlm_r1.phantom.questions import ask, describe
from medvlm_r1.phantom.scene import NONE, Scene

CT = Scene("CT", "chest", "axial", "lung window", "cyst", "left", "small", (1, 2))
CLEAR = Scene("X-ray", "knee", "lateral", "lateral", NONE, None, None, (1, 3))

CLAIMS = {
    "Axial CT of the head, brain window. There is a small ring-enhancing lesion on the patient's left.": (
        "plane: axial, modality: CT, region: head, technique: brain window, size: small, "
        "finding: ring-enhancing lesion, side: left"
    ),
    "Lateral X-ray of the knee. There is no finding.": "plane: lateral, modality: X-ray, region: knee, finding: none",
    "Side: left. Size: large.": "side: left, size: large",
    "Technique: frontal.": "plane: frontal",
    # Prose of a large model.
    "1. The image is a chest radiograph in a frontal view.\n2. There is no evidence of any abnormality.": (
        "region: chest, modality: X-ray, plane: frontal, finding: none"
    ),
    "The MR image is T2-weighted.": "modality: MRI, technique: T2-weighted",
    # Denials.
    "There is no mass, cyst or calcification.": "finding: not mass, finding: not cyst, finding: not calcification",
    "There is no mass, but a cyst is seen.": "finding: not mass, finding: cyst",
    "It is not an MRI.": "modality: not MRI",
    "A mass is not seen in the knee.": "finding: not mass, region: knee",
    "There is no large mass.": "",
    "There is no mass on the left.": "",
    "The lungs are not enlarged.": "region: chest",
    "No other abnormality is seen.": "",
    # A lesion of no kind, and words that are no claims.
    "There is a lesion.": "finding: any",
    "Which lesion is it? It could be a mass.": "",
    "The right answer is left over; the small bowel is normal.": "",
    # The reader's left is the patient's right.
    "It lies on the left side of the image.": "side: right",
    # The same claim twice.
    "A cyst. Finding: cyst.": "finding: cyst",
    "": "",
}


# Of options judged one by one, only the affirmed one is a claim.
WITH_OPTIONS = {
    "A mass no, B cyst yes, C no finding no.": "finding: cyst",
    "A mass no, B cyst no, C no finding yes.": "finding: none",
    "The options are A) mass and B) cyst. A mass is seen.": "finding: mass",
}


@pytest.mark.parametrize(("text", "claims"), (CLAIMS | WITH_OPTIONS).items())
def test_claims_of_a_text(text, claims):
    options = ("mass", "cyst", "no finding") if text in WITH_OPTIONS else ()
    assert ", ".join(map(str, read_claims(text, options))) == claims


def test_the_sound_habit_of_the_base_is_true_throughout():
    rng = np.random.default_rng(0)
    for index in range(300):
        question = ask(("MRI", "CT", "X-ray")[index % 3], (3, 0, index), rng)
        scene = question.scene
        claims = read_claims(reasoned(question).split("</think>")[0], question.options)
        assert {holds(claim, scene) for claim in claims} == {True}, (reasoned(question), [str(c) for c in claims])
        stated = {claim.attribute for claim in read_claims(describe(scene), ())}
        wanted = {"modality", "region", "plane", "finding"} | ({"technique"} if scene.modality != "X-ray" else set())
        if scene.finding != NONE:
            wanted |= {"size", "side"} if scene.side_is_seen else {"size"}
        assert stated == wanted


def test_every_attribute_can_be_false():
    others = ("MRI", "bone window", "knee", "coronal", "mass", "right", "large")
    for attribute, other in zip(ATTRIBUTES[:-1], others, strict=True):
        wrong = dataclasses.replace(CT, **{attribute: other})
        false = [claim for claim in read_claims(describe(wrong), ()) if holds(claim, CT) is False]
        assert false == [Claim(attribute, other)]


@pytest.mark.parametrize(
    ("claim", "scene", "true"),
    [
        (Claim("finding", ANY), CT, True),
        (Claim("finding", ANY), CLEAR, False),
        (Claim("finding", NONE), CT, False),
        (Claim("finding", "mass", negated=True), CT, True),
        (Claim("finding", "cyst", negated=True), CT, False),
        # A size of nothing is false; denied, it is nothing to check.
        (Claim("size", "small"), CLEAR, False),
        (Claim("size", "small", negated=True), CLEAR, None),
        # A sagittal picture shows no sides.
        (Claim("side", "left"), dataclasses.replace(CT, plane="sagittal"), None),
        # The frontal plane is the coronal one, but on a radiograph it is a view.
        (Claim("plane", "frontal"), dataclasses.replace(CT, plane="coronal"), True),
        (Claim("plane", "frontal"), CLEAR, False),
        (Claim("plane", "lateral"), CLEAR, True),
    ],
)
def test_whether_a_claim_holds(claim, scene, true):
    assert holds(claim, scene) is true
    # A denial is the opposite, or cannot be decided.
    denied = holds(dataclasses.replace(claim, negated=not claim.negated), scene)
    assert None in (true, denied) or denied is not true


def test_whether_a_finding_is_claimed():
    claimed = {"There is a cyst.": True, "Size: large.": True, "There is no finding.": False, "": None}
    claimed |= {"There is no finding. There is a cyst.": None, "There is no mass.": None}
    assert {text: claims_finding(read_claims(text, ())) for text in claimed} == claimed


def test_the_record_of_a_sample():
    question = ask("X-ray", (1, 0, 0), np.random.default_rng(0))
    of = to_sample(question, "test", 0)
    scene = scene_of(of)
    assert (scene.modality, scene.finding) == (question.scene.modality, question.scene.finding)
    expected = {"technique": "plane"}.get(question.attribute, question.attribute)
    assert question_attribute(of, scene) == expected
    [image] = of.truth["images"]
    for broken in (None, [], [image, image], ["MRI"], [{"modality": "CT"}], [{**image, "modality": "OCT"}]):
        assert scene_of(sample(truth={"asks": "region", "images": broken})) is None
    assert scene_of(sample()) is None
    # A volume's record of organs, to which a claimed side may refer.
    assert scene_of(sample(truth={"asks": "side", "images": [{**CT.truth(), "organs": []}]})) is None
    assert scene_of(sample(truth={"asks": "side", "images": [CT.truth()]})) is not None
    assert question_attribute(sample(truth={"asks": "cost"}), CT) is None


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=10), max_size=4))
def test_no_text_raises(text, options):
    claims = read_claims(text, options)
    assert len(set(claims)) == len(claims)
    assert {claim.attribute for claim in claims} <= set(ATTRIBUTES)


@pytest.mark.parametrize("word", ["left ", "magnetic resonance ", "no mass ", "A mass no, ", "1. ", "not a "])
def test_a_model_that_repeats_itself_claims_a_thing_once(word):
    claims = read_claims(word * 5000, ("mass", "cyst"))
    assert len(claims) <= 1


@pytest.mark.parametrize(
    ("reasoning", "labels"),
    [
        ("There is a mass.", {"mass"}),
        ("Two Masses are seen, and a left lung.", {"mass", "left_lung"}),
        ("There is no mass, but a cyst.", {"cyst"}),
        ("The mass is absent.", set()),
        ("It could be a mass.", set()),
        ("A massive lesion.", set()),
        ("A mass no, B cyst yes.", {"cyst"}),
        ("Options: A) mass B) cyst.", set()),
        ("", set()),
    ],
)
def test_labels_of_boxes_that_are_affirmed(reasoning, labels):
    assert affirmed_labels(reasoning, ["mass", "cyst"], ["mass", "cyst", "left_lung"]) == labels
