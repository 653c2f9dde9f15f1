"""Audited items written by hand, for the tests of probes."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, parsed_answer
from medvlm_r1.data.sample import LETTERS, Sample

UNREADABLE = "I cannot tell."


def sample(number: int = 0, k: int = 4, right: int = 0, **changes: object) -> Sample:
    """A question with k options "o0", "o1", ...; the one numbered `right` is right."""
    fields: dict[str, object] = {
        "id": f"q{number:04d}",
        "images": ("images/x.png",),
        "question": "Which?",
        "options": tuple(f"o{place}" for place in range(k)),
        "answer": f"o{right}",
        "modality": "MRI",
        "subject": "",
    }
    return Sample(**(fields | changes))  # type: ignore[arg-type]


def asked(of: Sample, *, others: bool = True, size: tuple[int, int] = (6, 4), seed: int = 7) -> ProbeInput:
    """What a probe is given: images of one colour."""
    images = tuple(Image.new("RGB", size, (10, 20, 30)) for _ in of.images)
    other = tuple(Image.new("RGB", size, (200, 0, 0)) for _ in of.images) if others else ()
    return ProbeInput(sample=of, images=images, others=other, seed=seed, template="medvlm-r1")


def item(of: Sample, answers: Mapping[str, str | None], variants: Mapping[str, Variant] | None = None) -> AuditedItem:
    """An item whose variants were answered with these option texts; None is an answer that cannot be read.

    Args:
        of: The question.
        answers: Option text by name of the variant.
        variants: The variants, where their options are in another order.
    """
    found = {}
    for name, option in answers.items():
        variant = (variants or {}).get(name) or Variant(
            name=name, sample=of, images=tuple(Image.new("RGB", (1, 1)) for _ in of.images)
        )
        letter = None if option is None else LETTERS[variant.sample.options.index(option)]
        text = UNREADABLE if letter is None else f"<think>So.</think><answer>{letter}</answer>"
        found[name] = parsed_answer(variant, text, n_tokens=3, truncated=False)
    assert REAL in found
    return AuditedItem(sample=of, answers=found)
