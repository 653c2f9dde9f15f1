"""Which variants are answered, and in what order."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from audited import Scripted, sample
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvlm_r1.audit.collect import audited, collect_responses, partners, probe_inputs
from medvlm_r1.audit.probe import Probe, ProbeInput
from medvlm_r1.audit.variant import Variant, VariantAnswer, item_seed
from medvlm_r1.data.sample import Sample


class Cutter(Probe):
    """Two steps: without the image, then with the reasoning cut off."""

    name = "cutter"

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        return [probe_input.variant("absent", sample=replace(probe_input.sample, images=()), images=())]

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        cut = real.text.partition("</think>")[0]
        return [probe_input.variant("cut", prefix=f"{cut}</think><answer>", letter_only=True)]


def items(n: int = 2) -> list[ProbeInput]:
    samples = [sample(number, k=2) for number in range(n)]
    return probe_inputs(samples, [[Image.new("RGB", (4, 4), (i, 0, 0))] for i in range(n)], "medvlm-r1")


def test_variants_are_answered_in_two_steps_for_all_items_together() -> None:
    backend = Scripted()
    fresh = collect_responses(items(), [Cutter()], backend)
    assert backend.batches == [["real", "absent", "real", "absent"], ["cut", "cut"]]
    assert set(fresh["q0001"]) == {"real", "absent", "cut"}
    assert fresh["q0001"]["cut"].text == "<think>It is seen. It is clear.</think><answer>A</answer>"
    assert fresh["q0001"]["cut"].probabilities == (1.0, 0.0)


def test_known_answers_are_not_generated_again() -> None:
    backend = Scripted()
    known = collect_responses(items(), [Cutter()], backend)
    del known["q0000"]["absent"]
    backend.batches.clear()
    fresh = collect_responses(items(), [Cutter()], backend, known)
    assert backend.batches == [["absent"]]
    assert {name: set(answers) for name, answers in fresh.items()} == {"q0000": {"absent"}, "q0001": set()}


def test_variants_that_a_backend_refuses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "refusal", lambda _, variant: "no prefill" if variant.prefix else "")
    fresh = collect_responses(items(1), [Cutter()], Scripted())
    assert set(fresh["q0000"]) == {"real", "absent"}
    assert audited([sample(0, k=2)], fresh)[0].correct()


def test_items_are_paired_within_their_modality_and_never_with_themselves() -> None:
    samples = [sample(n, modality="MRI" if n % 2 else "CT") for n in range(9)]
    samples += [sample(9, modality="X-ray"), sample(10, images=())]
    partner = partners(samples)
    assert partner[9:] == [None, None]
    for index, other in enumerate(partner[:9]):
        assert other is not None
        assert other != index
        assert samples[other].modality == samples[index].modality
    assert sorted(other for other in partner if other is not None) == list(range(9))


def test_images_of_the_same_subject_are_not_swapped_where_there_are_others() -> None:
    samples = [sample(n, subject=f"s{n // 3}") for n in range(30)]
    pairs = [(samples[n].subject, samples[other or 0].subject) for n, other in enumerate(partners(samples))]
    assert all(subject != other for subject, other in pairs)


@given(st.permutations(range(12)))
def test_the_order_of_the_items_does_not_change_the_pairs(order: list[int]) -> None:
    samples = [sample(n, modality="MRI" if n < 5 else "CT", subject=f"s{n // 2}") for n in range(12)]

    def pairs(of: list[Sample]) -> dict[str, str | None]:
        return {s.id: None if o is None else of[o].id for s, o in zip(of, partners(of), strict=True)}

    assert pairs([samples[n] for n in order]) == pairs(samples)


def test_an_item_has_the_same_seed_everywhere() -> None:
    assert item_seed(sample(0)) == item_seed(replace(sample(0), question="Other?")) != item_seed(sample(1))
    # Pinned: another value would change what a stored audit is compared with.
    assert item_seed(sample(id="q0")) == 1877443726232619571
