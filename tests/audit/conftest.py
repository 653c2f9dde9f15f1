"""Questions written in one line."""

from itertools import count

import pytest

from medvlm_r1.data.sample import Sample


@pytest.fixture
def question():
    """A function that makes a sample from its options, the place of the right one, and what else is to differ."""
    numbers = count(1)

    def make(options, right=0, modality="MRI", **changes):
        name, texts = f"q{next(numbers)}", tuple(options.split())
        fields = {"id": name, "images": (f"images/{name}.png",), "question": "What is seen?", "modality": modality}
        return Sample(**(fields | {"options": texts, "answer": texts[right] if texts else "a cyst"} | changes))

    return make
