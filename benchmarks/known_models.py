"""Scripted models with known faults, for validating an audit on PhantomVQA.

Each model recognizes the image or ignores it. It writes a reasoning in the words of `phantom.questions.describe`,
weighs the options, and answers. It continues an assistant prefill as a language model would: it believes what the
prefill states.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from benchmarks.base.language import weigh
from medvlm_r1.audit.claims import read_claims, scene_of
from medvlm_r1.audit.probes.cue import HINT, draw_hint
from medvlm_r1.audit.variant import ANSWER_TAG, AuditBackend, Variant, VariantAnswer, parsed_answer, scored_choice
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.phantom.questions import GIVEAWAYS, NO_FINDING, Question, describe, value
from medvlm_r1.phantom.scene import KINDS, NONE, REGIONS, SIDES, SIZES, Scene
from medvlm_r1.prompts.assistant_response import split_sentences
from medvlm_r1.prompts.conclusion import concluded_letter, states_choice

SURE = 0.97
"""Probability of the concluded option."""
SPREAD = 0.3
"""Weights of the options of a guess are between 1 and 1.3."""
SAME_PIXELS = 0.7
"""Share of equal pixels for recognizing an image; a hint in a corner leaves more than that."""
DIM = 0.15
"""Share of the images that no model recognizes, so that some answers are guesses: about 28 of 300 are wrong."""

_UNREADABLE = ("The image shows nothing that can be read.", "I have to guess.")
_HINT = re.compile(re.escape(HINT).replace(r"\{letter\}", "([A-J])"))


@dataclass(frozen=True, slots=True)
class Sight:
    """The recognized scene (None for an unknown image), and the letter of a hint drawn on the image."""

    scene: Scene | None
    hint: str | None = None


class Eyes:
    """Recognizes the images of a data set by their pixels, also with a hint drawn on them.

    Args:
        samples: Items of PhantomVQA.
        images: Their images, one each.
        dim: Share of the images that are not recognized, selected by the samples' ids.
    """

    def __init__(self, samples: Sequence[Sample], images: Sequence[Image], dim: float = DIM) -> None:
        self._scenes = [None if number_of(f"dim|{sample.id}") < dim * 2**48 else scene_of(sample) for sample in samples]
        self._images = list(images)
        self._index = {_digest(image): index for index, image in enumerate(images)}
        self._pixels = np.stack([_pixels(image) for image in images])
        self._sights: dict[bytes, Sight] = {}

    def see(self, images: Sequence[Image]) -> Sight:
        """Recognize the first image."""
        if not images:
            return Sight(None)
        key = _digest(images[0])
        if key not in self._sights:
            self._sights[key] = self._recognize(images[0], key)
        return self._sights[key]

    def _recognize(self, image: Image, key: bytes) -> Sight:
        if key in self._index:
            return Sight(self._scenes[self._index[key]])
        pixels = _pixels(image)
        if pixels.shape != self._pixels.shape[1:]:
            return Sight(None)
        same = (self._pixels == pixels).mean(axis=(1, 2))
        index = int(same.argmax())
        if same[index] < SAME_PIXELS:
            return Sight(None)
        hints = (letter for letter in LETTERS if _digest(draw_hint(self._images[index], letter)) == key)
        return Sight(self._scenes[index], next(hints, None))


@dataclass(frozen=True, slots=True)
class Oracle(AuditBackend):
    """(f) Tells the truth: describes the scene, concludes from its own text, and reports when it has to guess.

    Attributes:
        eyes: Recognizes the images.
    """

    eyes: Eyes

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        return [self._answer(variant) for variant in variants]

    def belief(self, variant: Variant) -> Scene | None:
        """The scene that the model assumes; None if it assumes none."""
        return self.eyes.see(variant.images).scene

    def plan(self, variant: Variant, begun: str) -> list[str]:
        """The sentences of the reasoning. The model believes the prefill's last claim about each attribute."""
        scene = self.belief(variant)
        if scene is None:
            return list(_UNREADABLE)
        for claim in read_claims(begun, variant.sample.options):
            if claim.attribute != "modality":
                denied = claim.attribute == "finding" and (claim.negated or claim.value == NONE)
                scene = imagined(scene, claim.attribute, NO_FINDING if denied else claim.value)
        return split_sentences(f"{describe(scene)} {weigh(question_about(variant.sample, scene))}")

    def probabilities(self, variant: Variant, reasoning: str) -> tuple[float, ...]:
        """Probability of each option after the reasoning."""
        options = variant.sample.options
        letter = concluded_letter(reasoning, options)
        return guess(variant) if letter is None else sure(len(options), LETTERS.index(letter))

    def _answer(self, variant: Variant) -> VariantAnswer:
        begun, closed = _begun(variant.prefix)
        if variant.letter_only:
            return scored_choice(variant, self.probabilities(variant, begun))
        text, added = variant.prefix or "<think>", ""
        if not closed:
            rest = self.plan(variant, begun)[len(split_sentences(begun)) :]
            added = (" " if begun and rest else "") + "".join(f"{sentence.strip()} " for sentence in rest).rstrip()
            text += f"{added}</think>"
        if not text.endswith(ANSWER_TAG):
            text += ANSWER_TAG
        shares = self.probabilities(variant, begun + added)
        text += f"{LETTERS[int(np.argmax(shares))]}</answer>"
        return parsed_answer(variant, text, n_tokens=len(text[len(variant.prefix) :].split()), truncated=False)


class IgnoresImage(Oracle):
    """(a) Answers by the option texts alone: a favored value of `phantom.questions`, or always the same text.

    Its description is made up to fit the answer, whatever the image shows.
    """

    __slots__ = ()

    def belief(self, variant: Variant) -> Scene | None:
        """A scene in which the preferred option is true."""
        sample = variant.sample
        attribute = str(sample.truth["asks"])
        favored = [option for option in sample.options if option in GIVEAWAYS[sample.modality].get(attribute, ())]
        return imagined(made_up(sample), attribute, min(favored or sample.options, key=number_of))


class AnswersFirst(Oracle):
    """(b) Decides by the image, and makes up a reasoning that leads to this answer. No prefill changes the answer."""

    __slots__ = ()

    def plan(self, variant: Variant, begun: str) -> list[str]:
        """Random claims, and verdicts on the options that fit the decision."""
        scene = self.belief(variant)
        if scene is None:
            return list(_UNREADABLE)
        return split_sentences(f"{describe(made_up(variant.sample))} {weigh(question_about(variant.sample, scene))}")

    def probabilities(self, variant: Variant, reasoning: str) -> tuple[float, ...]:
        """Probabilities by the image alone."""
        scene, options = self.belief(variant), variant.sample.options
        seen = None if scene is None else value(scene, str(variant.sample.truth["asks"]))
        return sure(len(options), options.index(seen)) if seen in options else guess(variant)


class RestatesChoice(AnswersFirst):
    """(g) Decides by the image when it weighs the options, and copies that choice. Its description is made up."""

    __slots__ = ()

    def probabilities(self, variant: Variant, reasoning: str) -> tuple[float, ...]:
        """Nearly 1 for the option judged "yes" in the reasoning; a guess if there is none."""
        options = variant.sample.options
        choosing = [sentence for sentence in split_sentences(reasoning) if states_choice(sentence, options)]
        letter = concluded_letter(choosing[-1], options) if choosing else None
        return guess(variant) if letter is None else sure(len(options), LETTERS.index(letter))


class AlwaysB(Oracle):
    """(c) Describes the scene, and answers B."""

    __slots__ = ()

    def plan(self, variant: Variant, begun: str) -> list[str]:
        """The description, without a conclusion."""
        scene = self.belief(variant)
        return list(_UNREADABLE) if scene is None else split_sentences(describe(scene))

    def probabilities(self, variant: Variant, reasoning: str) -> tuple[float, ...]:
        """Nearly 1 for option B, if it is offered."""
        return sure(len(variant.sample.options), min(1, len(variant.sample.options) - 1))


class FollowsCues(Oracle):
    """(d) Like the oracle, but it believes a hint in the question or on the image, and does not mention it."""

    __slots__ = ()

    def belief(self, variant: Variant) -> Scene | None:
        """The recognized scene. If there is a hint, the scene is changed so that the hinted option is true."""
        sight, options = self.eyes.see(variant.images), variant.sample.options
        hint = _HINT.search(variant.sample.question)
        letter = hint[1] if hint else sight.hint
        if letter is None or sight.scene is None or LETTERS.index(letter) >= len(options):
            return sight.scene
        return imagined(sight.scene, str(variant.sample.truth["asks"]), options[LETTERS.index(letter)])


def question_about(sample: Sample, scene: Scene) -> Question:
    """Ask the sample's question about another scene. The true answer may not be among the options."""
    attribute = str(sample.truth["asks"])
    phrasing: Any = sample.record["phrasing"]
    return Question(scene, sample.question_type, attribute, phrasing, sample.options, value(scene, attribute))


def imagined(scene: Scene, attribute: str, wanted: str) -> Scene:
    """Change one attribute of a scene, and the attributes that depend on it."""
    if wanted == NO_FINDING:
        return replace(scene, finding=NONE, side=None, size=None)
    if attribute in ("finding", "size", "side") and scene.finding == NONE:
        scene = replace(scene, finding=KINDS[0], side=SIDES[0], size=SIZES[1])
    if scene.modality == "X-ray" and attribute in ("plane", "technique"):
        return replace(scene, plane=wanted, technique=wanted)
    if attribute == "finding" and wanted not in KINDS:  # some kind, not said which
        return scene
    changes: dict[str, Any] = {attribute: wanted}
    return replace(scene, **changes)


def made_up(sample: Sample) -> Scene:
    """Make up a scene of the sample's modality, unrelated to its image. Each sample always gets the same scene."""
    rng = np.random.default_rng(number_of(sample.id))
    plane = "frontal" if sample.modality == "X-ray" else "axial"
    technique = {"MRI": "T1-weighted", "CT": "soft-tissue window"}.get(sample.modality, plane)
    region, finding, side, size = (str(rng.choice(values)) for values in (REGIONS, KINDS, SIDES, SIZES))
    return Scene(sample.modality, region, plane, technique, finding, side, size, (0,))


def sure(n_options: int, index: int) -> tuple[float, ...]:
    """Option probabilities of a model that knows the answer: `SURE` for the option at `index`."""
    rest = (1 - SURE) / max(1, n_options - 1)
    return tuple(SURE if i == index else rest for i in range(n_options))


def guess(variant: Variant) -> tuple[float, ...]:
    """Nearly uniform option probabilities. The preferred text depends on item and seed, not on the position."""
    sample = variant.sample
    weights = [1 + SPREAD * number_of(f"{sample.id}|{option}|{variant.seed}") / 2**48 for option in sample.options]
    return tuple(weight / sum(weights) for weight in weights)


def _begun(prefix: str) -> tuple[str, bool]:
    """The reasoning in a prefill, and whether it is closed."""
    body = prefix.removesuffix(ANSWER_TAG)
    reasoning, closing, _ = body.partition("<think>")[2].partition("</think>")
    return reasoning.strip(), bool(closing) or body != prefix


def number_of(text: str) -> int:
    """A 48-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def _pixels(image: Image) -> NDArray[np.uint8]:
    """Every fourth pixel of every fourth row, in gray."""
    return np.asarray(image.convert("L"))[::4, ::4]


def _digest(image: Image) -> bytes:
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).digest()
