"""Which items lend each other their images, and the seed of an item."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from audited import sample
from medvlm_r1.audit.collect import partners
from medvlm_r1.audit.variant import item_seed


@given(st.permutations(range(12)))
def test_partners_share_the_modality_but_no_subject_whatever_the_order(order):
    samples = [sample(n, modality="MRI" if n < 5 else "CT", subject=f"s{n // 2}") for n in range(12)]
    samples += [sample(12, modality="X-ray"), sample(13, images=())]
    partner = partners(samples)
    assert partner[12:] == [None, None]
    assert sorted(partner[:12]) == list(range(12))
    for of, other in zip(samples, partner[:12], strict=False):
        assert (samples[other].modality, of.subject != samples[other].subject) == (of.modality, True)
    shuffled = [samples[n] for n in order]
    pairs = {of.id: shuffled[other].id for of, other in zip(shuffled, partners(shuffled), strict=True)}
    assert pairs == {of.id: samples[other].id for of, other in zip(samples, partner[:12], strict=False)}


def test_an_item_has_the_same_seed_everywhere():
    assert item_seed(sample(0)) == item_seed(replace(sample(0), question="Other?")) != item_seed(sample(1))
    # Pinned: another value would change what a stored audit is compared with.
    assert item_seed(sample(id="q0")) == 1877443726232619571
