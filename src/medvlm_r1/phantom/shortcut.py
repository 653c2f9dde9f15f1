"""PhantomVQA with a planted option prior: a control data set whose text gives the answers away.

The image still shows what the right option says. Only what is asked is skewed: of each attribute some values are
favored and the others are not. Every question offers one favored value among others that are not, and in 97 of 100
the favored one is right. The values are the same for every modality, so a habit learned on one can be carried over to
the others. Attributes whose values differ between modalities (the technique) are not asked.
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
"""The values that are almost always right, by attribute. No text is favored for one attribute and not for another."""

SHARE = 0.97
"""How often the favored option is the right one."""


def draw_options(attribute: str, values: tuple[str, ...], rng: np.random.Generator) -> tuple[tuple[str, ...], str]:
    """Draws the options of a question and the right one among them.

    Args:
        attribute: Key of `FAVOURED`.
        values: The attribute's vocabulary.
        rng: Source of every choice.

    Returns:
        One favored value and one to three others in random order, most often as many as there are; and the right one.
    """
    favoured = str(rng.choice(FAVOURED[attribute]))
    others = [value for value in values if value not in FAVOURED[attribute]]
    most = min(3, len(others))
    count = most if rng.random() < 0.6 else int(rng.integers(1, most + 1))
    offered = [str(value) for value in rng.permutation(others)[:count]]
    answer = favoured if rng.random() < SHARE else str(rng.choice(offered))
    return tuple(str(value) for value in rng.permutation([favoured, *offered])), answer
