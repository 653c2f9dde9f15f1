"""Question and answer types of `MedVLM`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.data.images import ImageNote
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.models.generate import Generation
from medvlm_r1.prompts.parser import parse_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about no, one or several images."""

    question: str
    """The question text, without options."""
    image: Any = None
    """A path, PIL image, numpy array or pydicom dataset (see `medvlm_r1.serving.pictures.load`), a list of them, or
    None."""
    options: Sequence[str] = ()
    """Two to ten texts without letters; empty for an open question."""
    frame: int | None = None
    """Frame of a multi-frame file, from 0."""
    plane: str | None = None
    """NIfTI: axial, coronal or sagittal."""
    slice: int | None = None
    """NIfTI: slice index along the plane's normal, from 0."""
    window: str | None = None
    """Gray DICOM and NIfTI: brain, lung, soft-tissue, bone, percentile, full, stored, or CENTER/WIDTH."""
    template: str = "medvlm-r1"
    """A name in `medvlm_r1.prompts.templates.ALL_TEMPLATES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. Research use only: it is not a clinical finding."""

    letter: str | None
    """The letter in the answer tag by the strict rule, if it was offered; otherwise None."""
    option: str | None
    """Option text of the letter."""
    answer: str | None
    """Text in the answer tag."""
    lenient_letter: str | None
    """The letter by the lenient rule; None if unclear."""
    reasoning: str | None
    """Text in the think tag."""
    text: str
    """The full generated text."""
    confidence: dict[str, float] | None
    """Probability of each option's letter, among the options, after the model's text up to the answer tag. None for an
    open question, a model on a server, or a text without an answer tag. Options with equal text share one entry. It
    measures how confident the model is, not how often it is correct."""
    well_formed: bool
    """Whether the text has the form `<think>...</think><answer>...</answer>`."""
    truncated: bool
    """Whether the text was truncated at the token limit."""
    images: tuple[ImageNote, ...]
    """One note per shown image: frame or slice, window, warnings."""
    notice: str = RESEARCH_USE
    """Show this notice with every answer."""

    @property
    def image_note(self) -> str:
        """One line per shown image."""
        return "\n".join(note.summary() for note in self.images)

    def as_record(self) -> dict[str, Any]:
        """Return a JSON-serializable record; `image` is the note of the first image."""
        named = ("letter", "option", "answer", "lenient_letter", "reasoning", "text", "confidence", "well_formed")
        notes = [note.as_record() for note in self.images]
        parts = {name: getattr(self, name) for name in (*named, "truncated")}
        return {**parts, "image": notes[0] if notes else None, "images": notes, "notice": self.notice}


def read_answer(
    generation: Generation,
    options: Sequence[str],
    images: Sequence[ImageNote] = (),
    probabilities: Sequence[float] | None = None,
) -> Answer:
    """Parse a completion into an answer.

    Args:
        generation: The completion.
        options: The offered options, in letter order.
        images: Notes of the images shown.
        probabilities: One per option, or None.
    """
    response = parse_response(generation.text, options)
    offered = dict(zip(LETTERS, options, strict=False))
    confidence: dict[str, float] | None = None
    if probabilities is not None:
        confidence = {}
        for option, probability in zip(options, probabilities, strict=True):
            confidence[option] = confidence.get(option, 0.0) + probability
    letter = response.letter if not options or response.letter in offered else None
    return Answer(
        letter=letter,
        option=offered.get(letter) if letter else None,
        answer=response.answer,
        lenient_letter=response.lenient_letter,
        reasoning=response.reasoning,
        text=generation.text,
        confidence=confidence,
        well_formed=response.well_formed,
        truncated=generation.truncated,
        images=tuple(images),
    )
