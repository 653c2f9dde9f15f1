"""Which variants are asked, and in what order."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvlm_r1.audit.collect import audited, collect_responses, partners, probe_inputs
from medvlm_r1.audit.probe import ProbeInput, ProbeResult
from medvlm_r1.audit.variant import AuditedItem, Variant, VariantAnswer, item_seed, parsed_answer, scored_choice
from medvlm_r1.data.sample import Sample


def sample(number: int, modality: str = "CT", subject: str = "", images: int = 1) -> Sample:
    return Sample(
        id=f"q{number}",
        images=tuple(f"images/{number}-{k}.png" for k in range(images)),
        question="Which?",
        options=("liver", "brain"),
        answer="liver",
        modality=modality,
        subject=subject,
    )


class Echo:
    """Answers every variant with A and writes down what it was asked."""

    def __init__(self, local: bool = True) -> None:
        self.local = local
        self.batches: list[list[str]] = []

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        self.batches.append([variant.name for variant in variants])
        return [
            scored_choice(variant, [0.7, 0.3])
            if variant.letter_only
            else parsed_answer(
                variant, f"{variant.prefix}<think>x</think><answer>A</answer>", n_tokens=3, truncated=False
            )
            for variant in variants
        ]


class Cutter:
    """Asks in two steps: without the image, then with the reasoning it got cut off."""

    name = "cutter"
    local = True

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        return [Variant(name="absent", sample=replace(probe_input.sample, images=()), images=())]

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        cut = real.text.partition("</think>")[0]
        return [
            Variant(
                name="cut",
                sample=probe_input.sample,
                images=probe_input.images,
                prefix=f"{cut}</think><answer>",
                letter_only=True,
            )
        ]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        return ProbeResult(name=self.name, verdict="pass", sentence=f"{len(items)} items")


def items(n: int = 2) -> list[ProbeInput]:
    samples = [sample(number) for number in range(n)]
    return probe_inputs(samples, [[Image.new("RGB", (4, 4), (i, 0, 0))] for i in range(n)], "medvlm-r1")


def test_variants_are_asked_in_two_steps_for_all_items_together() -> None:
    echo = Echo()
    fresh = collect_responses(items(), [Cutter()], echo)
    assert echo.batches == [["real", "absent", "real", "absent"], ["cut", "cut"]]
    assert set(fresh["q1"]) == {"real", "absent", "cut"}
    assert fresh["q1"]["cut"].text == "<think>x</think><answer>A</answer>"
    assert fresh["q1"]["cut"].probabilities == (0.7, 0.3)


def test_what_is_known_is_not_asked_again() -> None:
    echo = Echo()
    known = collect_responses(items(), [Cutter()], echo)
    del known["q0"]["absent"]
    echo.batches.clear()
    fresh = collect_responses(items(), [Cutter()], echo, known)
    assert echo.batches == [["absent"]]
    assert {name: set(answers) for name, answers in fresh.items()} == {"q0": {"absent"}, "q1": set()}


def test_a_server_is_not_asked_to_go_on_or_to_weigh() -> None:
    echo = Echo(local=False)
    fresh = collect_responses(items(1), [Cutter()], echo)
    assert set(fresh["q0"]) == {"real", "absent"}
    assert audited([sample(0)], fresh)[0].correct()


def test_items_are_paired_within_their_modality_and_never_with_themselves() -> None:
    samples = [sample(n, "MRI" if n % 2 else "CT") for n in range(9)] + [sample(9, "X-ray"), sample(10, images=0)]
    found = partners(samples)
    assert found[9] is None
    assert found[10] is None
    for place, other in enumerate(found[:9]):
        assert other is not None
        assert other != place
        assert samples[other].modality == samples[place].modality
    assert sorted(other for other in found if other is not None) == list(range(9))


def test_images_of_the_same_subject_are_not_swapped_where_others_are_there() -> None:
    samples = [sample(n, subject=f"s{n // 3}") for n in range(30)]
    found = partners(samples)
    assert all(other is not None and samples[other].subject != samples[n].subject for n, other in enumerate(found))


@given(st.permutations(range(12)))
def test_the_order_of_the_items_does_not_change_who_is_paired(order: list[int]) -> None:
    samples = [sample(n, "MRI" if n < 5 else "CT", subject=f"s{n // 2}") for n in range(12)]

    def named(of: list[Sample]) -> dict[str, str | None]:
        return {s.id: None if o is None else of[o].id for s, o in zip(of, partners(of), strict=True)}

    assert named([samples[n] for n in order]) == named(samples)


def test_an_item_has_the_same_seed_everywhere() -> None:
    assert item_seed(sample(0)) == item_seed(replace(sample(0), question="Else?"))
    assert item_seed(sample(0)) != item_seed(sample(1))
    # Pinned: another value would change what a stored audit is compared with.
    assert item_seed(sample(0)) == SEED_OF_Q0


SEED_OF_Q0 = 1877443726232619571
