"""Questions about a scene: OmniMedVQA's five types, several phrasings each, and true descriptions.

Text alone must not solve them. A question draws its option set first, then the correct option uniformly from this set,
then a scene in which it is correct. Given the options, every answer is therefore equally likely in every modality.

With a shortcut, the questions are chosen to contain an option prior. They form a control data set whose text gives the
answers away. The image still shows the correct option. Every question offers one favored value and others that are not
favored. In 97 of 100 questions the favored one is correct. The values are the same for every modality, so a habit
learned on one transfers to the others. Attributes whose values differ between modalities (the technique) are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medvlm_r1.phantom.findings import KINDS, NONE, SIDES, SIZES
from medvlm_r1.phantom.imaging import PLANES
from medvlm_r1.phantom.scene import REGIONS, Scene, draw, techniques

NO_FINDING = "no finding"

# Six phrasings for each attribute, the same for all modalities. The place in the tuple is the phrasing's number.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "technique": (
        "Which imaging technique was used to make this image?",
        "What acquisition or display technique is seen here?",
        "Identify the technique of this radiology image.",
        "What technique is this?",
        "This image was made with which technique?",
        "Technique?",
    ),
    "region": (
        "Which part of the body is shown in this image?",
        "What anatomical region is seen here?",
        "Identify the anatomy displayed in this radiology image.",
        "What body part is this?",
        "This image shows which body part?",
        "Body part?",
    ),
    "finding": (
        "Which abnormality is shown in this image?",
        "What finding is seen here?",
        "Identify the lesion, if any, in this radiology image.",
        "What abnormality is this?",
        "This image shows which finding?",
        "Diagnosis?",
    ),
    "size": (
        "How large is the lesion shown in this image?",
        "What is the size of the lesion seen here?",
        "Grade the size of the lesion in this radiology image.",
        "What size is this lesion?",
        "The lesion in this image is of which size?",
        "Lesion size?",
    ),
    "side": (
        "On which side of the patient is the lesion in this image?",
        "What side of the patient is affected, as seen here?",
        "Identify the patient's side of the lesion in this radiology image.",
        "What side is the lesion on?",
        "The lesion in this image is on which side?",
        "Side of lesion?",
    ),
    "plane": (
        "In which plane was this image taken?",
        "What imaging plane is seen here?",
        "Identify the plane of this radiology image.",
        "What plane is this?",
        "This image is in which plane?",
        "Plane?",
    ),
}

# OmniMedVQA's five types and the attributes that ask for them.
TYPES: dict[str, tuple[str, ...]] = {
    "Modality Recognition": ("technique",),
    "Anatomy Identification": ("region",),
    "Disease Diagnosis": ("finding",),
    "Lesion Grading": ("size",),
    "Other Biological Attributes": ("side", "plane"),
}

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


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Attributes:
        scene: The truth of the image.
        type: One of OmniMedVQA's five question types.
        attribute: Key of `PHRASINGS`.
        phrasing: Index into the phrasings.
        options: 2 to 4 option texts, shuffled.
        answer: Text of the correct option.
    """

    scene: Scene
    type: str
    attribute: str
    phrasing: int
    options: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The question's wording."""
        return PHRASINGS[self.attribute][self.phrasing]


def ask(modality: str, seed: tuple[int, ...], rng: np.random.Generator, *, shortcut: bool = False) -> Question:
    """Draws a question and a scene that answers it.

    Args:
        modality: "MRI", "CT" or "X-ray".
        seed: Seed of the subject.
        rng: Source of every choice but the subject's own.
        shortcut: Let the options give the answer away; it stays true of the image.
    """
    kinds = [k for k, attributes in TYPES.items() if not shortcut or FAVOURED.keys() & set(attributes)]
    kind = str(rng.choice(kinds))
    attribute = str(rng.choice([a for a in TYPES[kind] if a != "plane" or modality != "X-ray"]))
    region = str(rng.choice(REGIONS))
    values = vocabulary(attribute, modality, region)
    if shortcut:
        favored = str(rng.choice(FAVOURED[attribute]))
        others = _subset([v for v in values if v not in FAVOURED[attribute]], 1, rng)
        answer = favored if rng.random() < SHARE else str(rng.choice(others))
        options = _shuffled([favored, *others], rng)
    else:
        options = _shuffled(_subset(values, 2, rng), rng)
        answer = options[int(rng.integers(len(options)))]
    wishes: dict[str, object] = {"side_seen": True} if attribute == "side" else {}
    if attribute == "technique":
        wishes["region"] = region
    wishes |= {"finding": NONE} if answer == NO_FINDING else {attribute: answer}
    return Question(draw(modality, wishes, seed, rng), kind, attribute, int(rng.integers(6)), options, answer)


def ask_about(scene: Scene, rng: np.random.Generator) -> Question:
    """Draws a question that a given scene answers (for training the base; the benchmark uses `ask`)."""
    soft = scene.technique != "bone window"
    answered = {"plane": scene.modality != "X-ray", "finding": soft, "size": soft and scene.size is not None}
    answered["side"] = soft and scene.side_is_seen
    pairs = [(kind, attribute) for kind in TYPES for attribute in TYPES[kind] if answered.get(attribute, True)]
    kind, attribute = pairs[int(rng.integers(len(pairs)))]
    answer = value(scene, attribute)
    others = [v for v in vocabulary(attribute, scene.modality, scene.region) if v != answer]
    options = _shuffled([*_subset(others, 1, rng), answer], rng)
    return Question(scene, kind, attribute, int(rng.integers(6)), options, answer)


def vocabulary(attribute: str, modality: str, region: str) -> tuple[str, ...]:
    """The values an attribute's options are drawn from."""
    if attribute == "technique":
        return techniques(modality, region)
    return {
        "region": REGIONS,
        "finding": (*KINDS, NO_FINDING),
        "size": SIZES,
        "side": (*SIDES, NO_FINDING),
        "plane": tuple(PLANES),
    }[attribute]


def _subset(values: Sequence[str], least: int, rng: np.random.Generator) -> tuple[str, ...]:
    """At least `least` of the values and at most two more; most often as many as possible."""
    most = min(least + 2, len(values))
    count = most if rng.random() < 0.6 else int(rng.integers(least, most + 1))
    return _shuffled(values, rng)[:count]


def _shuffled(values: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(map(str, rng.permutation(values)))


def value(scene: Scene, attribute: str) -> str:
    """The true value of an attribute, in the words of the options."""
    recorded = getattr(scene, attribute)
    return NO_FINDING if recorded in (None, NONE) else str(recorded)


def describe(scene: Scene) -> str:
    """Two true sentences: how and where the image was taken, and what it shows."""
    if scene.modality == "MRI":
        first = f"{scene.plane} {scene.technique} MRI of the {scene.region}."
    elif scene.modality == "CT":
        first = f"{scene.plane} CT of the {scene.region}, {scene.technique}."
    else:
        first = f"{scene.plane} X-ray of the {scene.region}."
    first = first[0].upper() + first[1:]
    if scene.finding == NONE:
        return f"{first} There is {NO_FINDING}."
    where = f" on the patient's {scene.side}" if scene.side_is_seen else ""
    return f"{first} There is a {scene.size} {scene.finding}{where}."
