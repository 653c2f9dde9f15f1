"""Questions about a scene, in the five question types of OmniMedVQA, and true descriptions of scenes.

Text alone must not solve the questions. `ask` draws the option set first, then the correct option uniformly from this
set, and then a scene in which this option is correct. Given the options, every answer is therefore equally likely in
every modality.

With `giveaway`, the text reveals the answers, as in published test sets. Every question offers one favored value of its
modality and others that are not favored. The favored value is nearly always correct, and the image still shows the
correct option. Modalities have different favored values: what is favored in MRI is partly wrong in CT and mostly wrong
in X-ray. The attribute "technique" is not used, because its values differ between modalities.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medvlm_r1.data.option_prior import shuffled, subset
from medvlm_r1.phantom.imaging import PLANES
from medvlm_r1.phantom.scene import KINDS, NONE, REGIONS, SIDES, SIZES, Scene, draw, techniques

NO_FINDING = "no finding"

_TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))
PHRASINGS: dict[str, tuple[str, ...]] = {name: tuple(texts) for name, texts in _TEXTS["phrasings"].items()}
"""Phrasings of the question about each attribute."""
GIVEAWAYS: dict[str, dict[str, dict[str, float]]] = _TEXTS["giveaways"]
"""Favored values by modality and attribute, and the share of questions offering them in which they are correct."""

# The five question types of OmniMedVQA, and the attributes that each type asks about.
TYPES: dict[str, tuple[str, ...]] = {
    "Modality Recognition": ("technique",),
    "Anatomy Identification": ("region",),
    "Disease Diagnosis": ("finding",),
    "Lesion Grading": ("size",),
    "Other Biological Attributes": ("side", "plane"),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Attributes:
        scene: Scene that the image shows: the ground truth.
        type: One of OmniMedVQA's five question types.
        attribute: Key of `PHRASINGS`.
        phrasing: Index of the phrasing in `PHRASINGS[attribute]`.
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
        """Text of the question, without its options."""
        return PHRASINGS[self.attribute][self.phrasing]


def ask(modality: str, seed: tuple[int, ...], rng: np.random.Generator, *, giveaway: bool = False) -> Question:
    """Draw a question, and a scene in which its answer is correct.

    Args:
        modality: "MRI", "CT" or "X-ray".
        seed: Seed of the subject.
        rng: Random generator of all choices that the seed of the subject does not determine.
        giveaway: Let the options reveal the answer. The answer is still correct for the image.
    """
    favored = GIVEAWAYS[modality]
    kinds = [k for k, attributes in TYPES.items() if not giveaway or favored.keys() & set(attributes)]
    kind = str(rng.choice(kinds))
    attribute = str(rng.choice([a for a in TYPES[kind] if a != "plane" or modality != "X-ray"]))
    region = str(rng.choice(REGIONS))
    values = vocabulary(attribute, modality, region)
    if giveaway:
        likely = str(rng.choice(list(favored[attribute])))
        others = subset([v for v in values if v not in favored[attribute]], 1, rng)
        answer = likely if rng.random() < favored[attribute][likely] else str(rng.choice(others))
        options = shuffled([likely, *others], rng)
    else:
        options = shuffled(subset(values, 2, rng), rng)
        answer = options[int(rng.integers(len(options)))]
    wishes: dict[str, object] = {"side_seen": True} if attribute == "side" else {}
    if attribute == "technique":
        wishes["region"] = region
    wishes |= {"finding": NONE} if answer == NO_FINDING else {attribute: answer}
    return Question(draw(modality, wishes, seed, rng), kind, attribute, int(rng.integers(6)), options, answer)


def vocabulary(attribute: str, modality: str, region: str) -> tuple[str, ...]:
    """All values from which the options of an attribute are drawn."""
    if attribute == "technique":
        return techniques(modality, region)
    return {
        "region": REGIONS,
        "finding": (*KINDS, NO_FINDING),
        "size": SIZES,
        "side": (*SIDES, NO_FINDING),
        "plane": tuple(PLANES),
    }[attribute]


def value(scene: Scene, attribute: str) -> str:
    """True value of an attribute in a scene, worded as in the options."""
    recorded = getattr(scene, attribute)
    return NO_FINDING if recorded in (None, NONE) else str(recorded)


def describe(scene: Scene) -> str:
    """Describe a scene in two true sentences: one on the image type and body region, and one on the finding."""
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
