"""The image probe against counts worked out by hand, and what must not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audited import asked, item, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from medvlm_r1.audit.probes.image import ABSENT, BLANK, BLIND, NOISE, SHUFFLED, ImageProbe
from medvlm_r1.audit.variant import REAL, AuditedItem

probe = ImageProbe()


def blind(number: int, real: str | None, others: str | None, **changes: object) -> AuditedItem:
    """An item answered alike by all blind runs."""
    return item(sample(number, **changes), {REAL: real} | dict.fromkeys(BLIND, others))


def test_the_variants() -> None:
    question = asked(sample())
    found = {variant.name: variant for variant in probe.first(question)}
    assert list(found) == [BLANK, NOISE, SHUFFLED, ABSENT]
    assert found[BLANK].images[0].size == (6, 4)
    assert [color for _, color in found[BLANK].images[0].getcolors()] == [(128, 128, 128)]
    assert found[SHUFFLED].images == question.others
    assert found[ABSENT].images == found[ABSENT].sample.images == ()
    assert all(found[name].sample == question.sample for name in (BLANK, NOISE, SHUFFLED))
    assert found[NOISE].images[0].size == (6, 4)


def test_noise_is_the_items_own_and_the_same_in_every_run() -> None:
    def noise(**changes: int) -> bytes:
        return next(v for v in probe.first(asked(sample(), **changes)) if v.name == NOISE).images[0].tobytes()

    assert noise(seed=7) == noise(seed=7) != noise(seed=8)
    values = np.frombuffer(noise(seed=7), dtype=np.uint8)
    assert values.std() > 50


def test_several_images_are_all_replaced_each_by_noise_of_its_own() -> None:
    found = {v.name: v for v in probe.first(asked(sample(images=("images/x.png", "images/y.png"))))}
    assert [len(found[name].images) for name in (BLANK, NOISE, SHUFFLED, ABSENT)] == [2, 2, 2, 0]
    first, second = found[NOISE].images
    assert first.tobytes() != second.tobytes()


def test_nothing_to_take_away() -> None:
    assert probe.first(asked(sample(images=()))) == []
    assert [v.name for v in probe.first(asked(sample(), others=False))] == [BLANK, NOISE, ABSENT]
    result = probe.measure([item(sample(images=()), {REAL: "o0"})])
    assert result.verdict == "not run"


def test_measures_by_hand() -> None:
    of = [sample(number, k=4 if number else 2) for number in range(5)]
    items = [
        # right throughout
        item(of[0], {REAL: "o0", BLANK: "o0", NOISE: "o0", SHUFFLED: "o0", ABSENT: "o0"}),
        # right with the image only
        item(of[1], {REAL: "o0", BLANK: "o1", NOISE: "o2", SHUFFLED: "o3", ABSENT: "o1"}),
        item(of[2], {REAL: "o0", BLANK: "o1", NOISE: "o1", SHUFFLED: "o0", ABSENT: "o1"}),
        # wrong, and right blind
        item(of[3], {REAL: "o1", BLANK: "o0", NOISE: "o1", SHUFFLED: "o1", ABSENT: None}),
        # no other image to show
        item(of[4], {REAL: "o0", BLANK: None, NOISE: "o0", ABSENT: "o0"}),
        item(sample(5, images=()), {REAL: "o0"}),
    ]
    result = probe.measure(items)
    value = {name: measure.value for name, measure in result.measures.items()}
    n = {name: measure.n for name, measure in result.measures.items()}
    assert value["accuracy_real"] == 4 / 5
    assert value["accuracy_blank"] == value["accuracy_noise"] == value["accuracy_absent"] == 2 / 5
    assert (value["accuracy_shuffled"], n["accuracy_shuffled"]) == (2 / 4, 4)
    assert value["chance"] == pytest.approx((1 / 2 + 4 * 1 / 4) / 5)
    assert value["blank_retention"] == value["mirage"] == 2 / 4
    assert (value["visual_reliance"], n["visual_reliance"]) == (3 / 4 - 2 / 4, 4)
    # Pairs: 3 + 3 + 3 + 3 + 1 (blank was not read, none shuffled); changed: 0, 3, 2, 1, 0.
    assert (value["image_sensitivity"], n["image_sensitivity"]) == (6 / 13, 13)
    assert (value["changed_absent"], n["changed_absent"]) == (2 / 4, 4)
    # Only the second is wrong in every blind run.
    assert (value["accuracy_unsolved_blind"], n["accuracy_unsolved_blind"]) == (1.0, 1)
    assert value["unparsed"] == 2 / 24
    assert result.items["same answer whatever the image"] == ["q0000"]
    assert result.items["correct without any image of its own"] == ["q0000"]
    assert result.items["correct with its own image only"] == ["q0001"]
    assert result.items["an answer was not parsed"] == ["q0003", "q0004"]
    assert result.verdict == "not run"
    assert "4 items with an image of another item to compare with; at least 30 are needed" in result.sentence
    # Nothing is known of the spread between subjects from so few.
    assert result.measures["blank_retention"].ci95 is None
    assert "1 items without an image" in result.sentence


def test_intervals_of_shares_are_scipys() -> None:
    result = probe.measure([blind(number, "o0" if number % 3 else "o1", "o1") for number in range(40)])
    reference = binomtest(26, 40).proportion_ci(method="wilson")
    assert result.measures["accuracy_real"].ci95 == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_a_model_that_never_changes_its_answer_fails_however_right_it_is() -> None:
    assert probe.measure([blind(number, "o0", "o0") for number in range(60)]).verdict == "fail"


def test_a_model_whose_other_answers_are_no_worse_fails() -> None:
    items = [blind(n, "o0" if n % 2 else "o1", "o1" if n % 2 else "o0") for n in range(400)]
    result = probe.measure(items)
    assert result.measures["image_sensitivity"].value == 1
    assert result.verdict == "fail"
    assert "does not help" in result.sentence


def test_a_model_that_looks_passes() -> None:
    result = probe.measure([blind(n, "o0" if n % 10 else "o1", "o0" if n % 3 == 0 else "o2") for n in range(120)])
    assert result.verdict == "pass"
    assert result.measures["visual_reliance"].value == pytest.approx(0.9 - 1 / 3)


def test_a_model_that_hardly_needs_the_image_warns() -> None:
    # 20 of 100 need the image: reliance is shown, but four fifths are kept without it.
    assert probe.measure([blind(n, "o0", "o1" if n % 5 == 0 else "o0") for n in range(300)]).verdict == "warn"


def test_a_model_of_which_too_little_was_seen_warns() -> None:
    result = probe.measure([blind(n, "o0", "o1" if n % 6 == 0 else "o0") for n in range(60)])
    assert result.verdict == "warn"
    assert result.sentence.startswith("It is not shown to look")


def test_a_garbled_blind_answer_is_no_sign_of_looking() -> None:
    result = probe.measure([blind(n, "o0", None) for n in range(100)])
    assert result.verdict == "warn"
    assert "were not parsed" in result.sentence


def test_one_variant_that_cannot_be_read_draws_no_verdict() -> None:
    # A fifth of all answers are unread, and all of those to a grey image are: that is no sign of needing the image.
    items = [blind(n, "o0", "o1") for n in range(100)]
    lost = [replace(one, answers=one.answers | {"blank": item(one.sample, {"real": None}).real}) for one in items]
    assert probe.measure(items).verdict == "pass"
    found = probe.measure(lost)
    assert (found.verdict, found.measures["unparsed"].value) == ("warn", 0.2)
    assert "100% of the answers with a grey image were not parsed" in found.sentence


def test_nothing_right_has_no_retention() -> None:
    result = probe.measure([blind(n, "o1", "o2") for n in range(40)])
    assert "blank_retention" not in result.measures
    assert result.verdict == "fail"


answered = st.tuples(
    st.sampled_from([None, "o0", "o1"]),
    st.lists(st.sampled_from([None, "o0", "o1"]), min_size=4, max_size=4),
    st.integers(2, 10),
    st.integers(0, 3),
    st.booleans(),
)


@st.composite
def batches(draw: st.DrawFn) -> list[AuditedItem]:
    items = []
    for number, (real, others, k, subject, shuffled) in enumerate(draw(st.lists(answered, min_size=1, max_size=12))):
        answers = {REAL: real} | {n: o for n, o in zip(BLIND, others, strict=True) if shuffled or n != SHUFFLED}
        items.append(item(sample(number, k=k, subject=f"s{subject}" if subject else ""), answers))
    return items


@given(batches())
@settings(max_examples=40)
def test_shares_are_shares_and_intervals_hold_them(items: list[AuditedItem]) -> None:
    for measure in probe.measure(items).measures.values():
        assert measure.n > 0
        if measure.unit == "share":
            assert 0 <= measure.value <= 1
            if measure.ci95:
                assert 0 <= measure.ci95[0] <= measure.value + 1e-12
                assert measure.value - 1e-12 <= measure.ci95[1] <= 1
        if measure.unit == "difference":
            assert -1 <= measure.value <= 1
        if measure.unit == "ratio":
            assert measure.value >= 0


@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_the_items_does_not_matter(items: list[AuditedItem], random: np.random.Generator) -> None:
    mixed = list(items)
    random.shuffle(mixed)  # type: ignore[arg-type]
    assert probe.measure(mixed).record() == probe.measure(items).record()
