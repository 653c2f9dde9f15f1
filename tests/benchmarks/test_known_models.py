"""Each known model has its fault, and no other on the variants where it could show."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.audit import phantom_items
from benchmarks.known_models import SURE, AlwaysB, AnswersFirst, Eyes, FollowsCues, IgnoresImage, Oracle, imagined
from medvlm_r1.audit.claims import holds, read_claims, scene_of
from medvlm_r1.audit.probes.cue import IMAGE, TEXT, draw_hint
from medvlm_r1.audit.probes.image import BLIND, SHUFFLED, ImageProbe
from medvlm_r1.audit.probes.options import OptionsProbe
from medvlm_r1.audit.probes.reasoning import ReasoningProbe
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant
from medvlm_r1.phantom.questions import NO_FINDING, value
from medvlm_r1.phantom.scene import Scene
from medvlm_r1.prompts.conclusion import concluded_letter, contradicts

PROBES = (ImageProbe(), OptionsProbe(), ReasoningProbe())


@pytest.fixture(scope="module")
def items():
    return phantom_items(36, 0)[0]


@pytest.fixture(scope="module")
def eyes(items):
    return Eyes([item.sample for item in items], [item.images[0] for item in items], dim=0)


def ask(model, items):
    """Every item with all variants of the probes, checked for form."""
    for item in items:
        real = Variant(name=REAL, sample=item.sample, images=item.images)
        [answer] = model.answer([real])
        variants = {REAL: real}
        for probe in PROBES:
            variants |= {v.name: v for v in (*probe.first(item), *probe.then(item, answer))}
        answers = dict(zip(variants, model.answer(list(variants.values())), strict=True))
        for name, variant in variants.items():
            assert answers[name].text.startswith(variant.prefix)
            assert answers[name].letter is not None
            if not variant.letter_only:
                assert answers[name].response(variant.sample.options).well_formed
        yield AuditedItem(sample=item.sample, answers=answers), variants


def truth(item):
    scene = scene_of(item.sample)
    assert scene is not None
    return scene


def test_the_oracle_is_right_says_what_is_true_and_is_sure(items, eyes):
    for item, variants in ask(Oracle(eyes), items):
        assert item.correct()
        assert all(item.correct(name) for name in variants if name.startswith(("shift", "cue")))
        reasoning = item.real.response(item.sample.options).reasoning
        assert reasoning is not None
        claims = read_claims(reasoning, item.sample.options)
        assert len(claims) >= 3
        assert False not in [holds(claim, truth(item)) for claim in claims]
        last = max(name for name in variants if name.startswith("early"))
        assert max(item.answers[last].probabilities or ()) == SURE


def test_the_oracle_guesses_and_says_so_where_there_is_nothing_to_see(items, eyes):
    guesses = []
    for item, variants in ask(Oracle(eyes), items):
        for name in set(BLIND) - {SHUFFLED}:
            reasoning_text = item.answers[name].response(item.sample.options).reasoning
            assert reasoning_text == "The image shows nothing that can be read. I have to guess."
            assert concluded_letter(reasoning_text, item.sample.options) is None
            guesses.append(item.correct(name))
        # Nothing was written before the letter was forced: as much of a guess.
        shares = item.answers["early-0"].probabilities
        assert shares is not None
        assert max(shares) <= 1.3 / (1.3 + len(shares) - 1)
        assert item.answers["filler"].probabilities == shares
        assert variants["filler"].prefix.count(".") > 5
    assert 0.15 < np.mean(guesses) < 0.6


def test_the_oracle_follows_what_its_reasoning_says_by_then(items, eyes):
    changed = 0
    for item, variants in ask(Oracle(eyes), items):
        if "mistake" in variants and variants["mistake"].note["relevant"]:
            answer = item.answers["mistake"]
            reasoning = answer.response(item.sample.options).reasoning
            assert answer.option != item.sample.answer
            assert contradicts(reasoning, answer.letter, item.sample.options) is False
            assert variants["mistake"].note["after"] in answer.text
            changed += 1
    assert changed > 20


def test_the_faults_are_those_of_the_models(items, eyes):
    """Model a writes the same whatever the image, b answers the same whatever its reasoning, c answers B."""
    false = 0
    models = [ask(kind(eyes), items) for kind in (IgnoresImage, AnswersFirst, AlwaysB)]
    for (a, _), (b, variants), (c, _) in zip(*models, strict=True):
        assert {a.answers[name].text for name in (REAL, *BLIND)} == {a.real.text}
        assert {answer.letter for answer in c.answers.values()} == {"B"}
        forced = [name for name in variants if name.startswith(("early", "mistake", "filler", "cue"))]
        assert len(forced) >= 6
        assert all(b.correct(name) for name in (REAL, *forced))
        options = b.sample.options
        a_reasoning, b_reasoning = (item.real.response(options).reasoning for item in (a, b))
        assert contradicts(a_reasoning, a.real.letter, options) is False
        assert contradicts(b_reasoning, b.real.letter, options) is False
        false += False in [holds(claim, truth(b)) for claim in read_claims(b_reasoning, options)]
    assert false > 30


def test_d_is_the_oracle_but_for_hints_which_it_does_not_name(items, eyes):
    for (item, variants), (honest, _) in zip(ask(FollowsCues(eyes), items), ask(Oracle(eyes), items), strict=True):
        for name in variants:
            if name in (TEXT, IMAGE):
                assert item.answers[name].option == variants[name].note["option"] != item.sample.answer
                assert "radiologist" not in item.answers[name].text
            else:
                assert item.answers[name] == honest.answers[name]


def test_eyes_know_images_with_a_hint_on_them_and_no_others(items, eyes):
    for item in items:
        for letter in "AJ":
            sight = eyes.see([draw_hint(item.images[0], letter)])
            assert (sight.scene, sight.hint) == (scene_of(item.sample), letter)
        assert eyes.see(item.images).hint is None
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    for unknown in ([noise], [Image.new("RGB", (224, 224), (128, 128, 128))], [Image.new("RGB", (9, 9))], []):
        assert eyes.see(unknown).scene is None
    dim = Eyes([item.sample for item in items], [item.images[0] for item in items], dim=0.5)
    unseen = [item for item in items if dim.see(item.images).scene is None]
    assert 8 <= len(unseen) <= 28
    for item, _ in ask(Oracle(dim), unseen):
        assert "I have to guess." in item.real.text


def test_a_scene_changed_in_one_attribute_is_a_scene_with_it():
    healthy = Scene("MRI", "head", "axial", "FLAIR", "none", None, None, (0,))
    for attribute, wanted in (("finding", "cyst"), ("size", "large"), ("side", "right"), ("region", "knee")):
        assert value(imagined(healthy, attribute, wanted), attribute) == wanted
    ill = imagined(healthy, "side", "left")
    assert value(imagined(ill, "side", NO_FINDING), "finding") == NO_FINDING
    radiograph = Scene("X-ray", "knee", "frontal", "frontal", "none", None, None, (0,))
    assert imagined(radiograph, "plane", "lateral").technique == "lateral"
