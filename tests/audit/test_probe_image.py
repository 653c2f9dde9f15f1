"""The image probe against counts worked out by hand, and what must not change them."""

from dataclasses import replace

import numpy as np
import pytest

from audited import check_verdict, item, numbers, probe_input, sample
from medvlm_r1.audit.probes.image import ABSENT, BLANK, BLIND, NOISE, SHUFFLED, ImageProbe
from medvlm_r1.audit.variant import REAL
from medvlm_r1.data.sample import Box

probe = ImageProbe()


def blind(number, real, others, **changes):
    """An item with the same answer to all blind variants."""
    return item(sample(number, **changes), {REAL: real} | dict.fromkeys(BLIND, others))


def variants(**options):
    return {variant.name: variant for variant in probe.first(probe_input(sample(), **options))}


def test_the_variants():
    question = probe_input(sample(boxes=(Box(label="mass", image=0, x1=1, y1=1, x2=3, y2=4),)))
    made = {variant.name: variant for variant in probe.first(question)}
    assert list(made) == [BLANK, NOISE, SHUFFLED, ABSENT]
    assert [color for _, color in made[BLANK].images[0].getcolors()] == [(128, 128, 128)]
    assert made[SHUFFLED].images == question.others
    assert made[ABSENT].images == made[ABSENT].sample.images == ()
    assert all(made[name].sample == question.sample for name in (BLANK, NOISE, SHUFFLED))
    assert made[NOISE].images[0].size == made[BLANK].images[0].size == (6, 4)
    # All images are replaced; noise belongs to the item and to the image.
    two = {variant.name: variant for variant in probe.first(probe_input(sample(images=("x.png", "y.png"))))}
    assert [len(variant.images) for variant in two.values()] == [2, 2, 2, 0]
    first, second = (image.tobytes() for image in two[NOISE].images)
    noise, other = (variants(seed=seed)[NOISE].images[0].tobytes() for seed in (7, 8))
    assert (noise, len({first, second, other})) == (first, 3)
    assert np.frombuffer(first, dtype=np.uint8).std() > 50
    # Nothing to take away, and no other item.
    assert probe.first(probe_input(sample(images=()))) == []
    assert list(variants(others=False)) == [BLANK, NOISE, ABSENT]
    assert probe.measure([item(sample(images=()), {REAL: "o0"})]).verdict == "not run"


def test_measures_by_hand():
    of = [sample(number, k=4 if number else 2) for number in range(5)]
    items = [
        # correct throughout
        item(of[0], {REAL: "o0", BLANK: "o0", NOISE: "o0", SHUFFLED: "o0", ABSENT: "o0"}),
        # correct with the image only
        item(of[1], {REAL: "o0", BLANK: "o1", NOISE: "o2", SHUFFLED: "o3", ABSENT: "o1"}),
        item(of[2], {REAL: "o0", BLANK: "o1", NOISE: "o1", SHUFFLED: "o0", ABSENT: "o1"}),
        # wrong, and correct blind
        item(of[3], {REAL: "o1", BLANK: "o0", NOISE: "o1", SHUFFLED: "o1", ABSENT: None}),
        # no other image to show
        item(of[4], {REAL: "o0", BLANK: None, NOISE: "o0", ABSENT: "o0"}),
        item(sample(5, images=()), {REAL: "o0"}),
    ]
    result = check_verdict(probe, items)
    expected = {
        "accuracy_real": (4 / 5, 5),
        "accuracy_blank": (2 / 5, 5),
        "accuracy_noise": (2 / 5, 5),
        "accuracy_absent": (2 / 5, 5),
        "accuracy_shuffled": (2 / 4, 4),
        "chance": ((1 / 2 + 4 * 1 / 4) / 5, 5),
        "blank_retention": (2 / 4, 5),
        "mirage": (2 / 4, 5),
        "visual_reliance": (3 / 4 - 2 / 4, 4),
        # Pairs: 3 + 3 + 3 + 3 + 1 (blank was not parsed, none shuffled); changed: 0, 3, 2, 1, 0.
        "image_sensitivity": (6 / 13, 13),
        "changed_absent": (2 / 4, 4),
        # Only the second is wrong in every blind variant.
        "accuracy_unsolved_blind": (1.0, 1),
        "unparsed": (2 / 24, 24),
    }
    assert list(expected.values()) == numbers(result, *expected)
    assert result.items == {
        "same answer whatever the image": ["q0000"],
        "correct without any image of its own": ["q0000"],
        "correct with its own image only": ["q0001"],
        "an answer was not parsed": ["q0003", "q0004"],
    }
    assert result.verdict == "not run"
    assert "4 items with an image of another item to compare with; at least 30 are needed" in result.sentence
    assert "1 items without an image" in result.sentence
    # Nothing is known of the spread between subjects from so few.
    assert result.measures["blank_retention"].ci95 is None


@pytest.mark.parametrize(
    ("items", "verdict", "words"),
    [
        # It never changes its answer, however correct it is.
        ([blind(n, "o0", "o0") for n in range(60)], "fail", "It does not look"),
        # It answers differently, but no worse.
        ([blind(n, f"o{1 - n % 2}", f"o{n % 2}") for n in range(400)], "fail", "The image does not help"),
        ([blind(n, "o0" if n % 10 else "o1", "o0" if n % 3 == 0 else "o2") for n in range(120)], "pass", "It looks"),
        # 20 of 100 need the image: reliance is shown, but four fifths are kept without it.
        ([blind(n, "o0", "o1" if n % 5 == 0 else "o0") for n in range(300)], "warn", "It looks, but much"),
        ([blind(n, "o0", "o1" if n % 6 == 0 else "o0") for n in range(60)], "warn", "It is not shown to look"),
        # A garbled blind answer is no sign of looking.
        ([blind(n, "o0", None) for n in range(100)], "warn", "80% of 500 answers were not parsed"),
    ],
)
def test_verdicts(items, verdict, words):
    assert check_verdict(probe, items, verdict, words).sentence.startswith(words)


def test_one_variant_that_is_not_parsed_draws_no_verdict():
    # A fifth of all answers are unparsed, and all of those to a gray image are: no sign of needing the image.
    items = [blind(n, "o0", "o1") for n in range(100)]
    lost = [replace(of, answers=of.answers | {"blank": item(of.sample, {"real": None}).real}) for of in items]
    assert probe.measure(items).verdict == "pass"
    result = probe.measure(lost)
    assert (result.verdict, result.measures["unparsed"].value) == ("warn", 0.2)
    assert "100% of the answers with a gray image were not parsed" in result.sentence
    # Nothing correct has no retention.
    result = probe.measure([blind(n, "o1", "o2") for n in range(40)])
    assert (result.verdict, "blank_retention" in result.measures) == ("fail", False)
