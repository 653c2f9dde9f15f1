"""Questions written in one line."""

from collections.abc import Callable

import pytest

from medvlm_r1.data.sample import Sample

SampleMaker = Callable[..., Sample]


@pytest.fixture
def question():
    """A function that makes a sample from its options, the place of the right one, and what else is to differ."""
    made = 0

    def make(options, right=0, modality="MRI", **changes):
        nonlocal made
        made += 1
        texts = tuple(options.split())
        fields = {
            "id": f"q{made}",
            "images": (f"images/q{made}.png",),
            "question": "What is seen?",
            "options": texts,
            "answer": texts[right] if texts else "a cyst",
            "modality": modality,
        }
        return Sample(**{**fields, **changes})  # type: ignore[arg-type]

    return make
