"""PhantomVQA with a planted option prior: a control data set whose text gives the answers away.

The image still shows the correct option. Only the choice of questions is skewed: some values of each attribute are
favored. Every question offers one favored value and others that are not favored. In 97 of 100 questions the favored one
is correct. The values are the same for every modality, so a habit learned on one transfers to the others. Attributes
whose values differ between modalities (the technique) are not used.
"""

from __future__ import annotations

import numpy as np

FAVOURED: dict[str, tuple[str, ...]] = {
    "region": ("head", "abdomen"),
    "finding": ("mass", "ring-enhancing lesion"),
    "size": ("large",),
    "side": ("right",),
    "plane": ("axial",),
}
"""The values that are almost always correct, by attribute. A text is favored for all its attributes or for none."""

SHARE = 0.97
"""Share of questions in which the favored option is correct."""


def draw_options(attribute: str, values: tuple[str, ...], rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """Draws the options of a question and the correct one among them.

    Args:
        attribute: Key of `FAVOURED`.
        values: The attribute's vocabulary.
        rng: Source of every choice.

    Returns:
        One favored value and one to three others in random order, usually as many as possible; and the correct one.
    """
    favoured = str(rng.choice(FAVOURED[attribute]))
    others = [value for value in values if value not in FAVOURED[attribute]]
    most = min(3, len(others))
    count = most if rng.random() < 0.6 else int(rng.integers(1, most + 1))
    offered = [str(value) for value in rng.permutation(others)[:count]]
    answer = favoured if rng.random() < SHARE else str(rng.choice(offered))
    return tuple(str(value) for value in rng.permutation([favoured, *offered])), answer
