"""Questions: well posed, true, and worded alike for every modality."""

import numpy as np
import pytest

from benchmarks.base.language import ask_about
from medvlm_r1.phantom.questions import (
    GIVEAWAYS,
    NO_FINDING,
    PHRASINGS,
    TYPES,
    ask,
    describe,
    value,
    vocabulary,
)
from medvlm_r1.phantom.scene import MODALITIES, NONE, Scene, draw


def plain(modality, n=400, **options):
    rng = np.random.default_rng(MODALITIES.index(modality))
    return [ask(modality, (8, index), rng, **options) for index in range(n)]


def planted(modality, n=400):
    return plain(modality, n, giveaway=True)


def about_a_scene(modality, n=400):
    rng = np.random.default_rng(10 + MODALITIES.index(modality))
    return [ask_about(draw(modality, {}, (9, index), rng), rng) for index in range(n)]


@pytest.mark.parametrize("make", [plain, about_a_scene, planted])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_question_is_well_posed_and_the_image_gives_its_answer(modality, make):
    questions = make(modality)
    for question in questions:
        scene = question.scene
        assert scene.modality == modality
        assert 2 <= len(set(question.options)) == len(question.options) <= 4
        assert set(question.options) <= set(vocabulary(question.attribute, modality, scene.region))
        assert question.answer in question.options
        assert question.answer == value(scene, question.attribute)
        assert question.attribute in TYPES[question.type]
        assert question.text == PHRASINGS[question.attribute][question.phrasing]
        visible = {"side": scene.side_is_seen or scene.finding == NONE, "size": scene.size is not None}
        assert (visible | {"plane": modality != "X-ray"}).get(question.attribute, True)
        assert question.attribute not in ("finding", "side", "size") or scene.technique != "bone window"
    if make is not planted:
        attributes = set(PHRASINGS) - ({"plane"} if modality == "X-ray" else set())
        assert {(q.attribute, q.phrasing) for q in questions} == {(a, i) for a in attributes for i in range(6)}
        assert {q.type for q in questions} == set(TYPES)
        assert {len(q.options) for q in questions} == {2, 3, 4}
        assert {q.options.index(q.answer) for q in questions} == {0, 1, 2, 3}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_giveaway_offers_one_favored_option_that_is_almost_always_correct(modality):
    questions, favored = planted(modality, 1000), GIVEAWAYS[modality]
    offered = [[o for o in q.options if o in favored[q.attribute]] for q in questions]
    correct = np.mean([q.answer == option for q, [option] in zip(questions, offered, strict=True)])
    shares = [share for values in favored.values() for share in values.values()]
    assert correct == pytest.approx(np.mean(shares), abs=0.025)
    assert {q.attribute for q in questions} == set(favored)
    assert {q.answer for q in questions} >= {v for values in favored.values() for v in values}
    positions = [q.options.index(q.answer) for q in questions if len(q.options) == 3]
    assert min(np.bincount(positions, minlength=3)) > len(positions) / 4


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_text_is_favored_for_one_attribute_and_not_for_another(modality):
    favored = {text for values in GIVEAWAYS[modality].values() for text in values}
    for attribute, texts in GIVEAWAYS[modality].items():
        values = {v for region in ("head", "chest") for v in vocabulary(attribute, modality, region)}
        assert values & favored == set(texts)
        assert len(values) > len(texts)


def test_six_phrasings_each_that_name_no_modality():
    assert set(PHRASINGS) == {attribute for attributes in TYPES.values() for attribute in attributes}
    for wordings in PHRASINGS.values():
        assert len(set(wordings)) == 6
        words = " ".join(wordings).lower().replace("?", "").split()
        assert not {"mri", "mr", "ct", "x-ray", "radiograph", "tomography"} & set(words)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            ("MRI", "head", "axial", "FLAIR", "mass", "left", "small"),
            "Axial FLAIR MRI of the head. There is a small mass on the patient's left.",
        ),
        (
            ("CT", "chest", "coronal", "lung window", NONE, None, None),
            "Coronal CT of the chest, lung window. There is no finding.",
        ),
        (
            ("X-ray", "knee", "lateral", "lateral", "cyst", "right", "large"),
            "Lateral X-ray of the knee. There is a large cyst.",
        ),
    ],
)
def test_describe(fields, text):
    scene = Scene(*fields, seed=(1,))
    assert describe(scene) == text
    assert value(scene, "region") == scene.region
    if scene.finding == NONE:
        assert [value(scene, a) for a in ("finding", "side", "size")] == [NO_FINDING] * 3
