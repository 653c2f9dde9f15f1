"""Question and answer types of `MedVLM`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from medvlm_r1.data.images import ImageNote
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.models.generate import Generation
from medvlm_r1.prompts.parser import parse_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with any number of images, or none."""

    question: str
    """The question text, without options."""
    image: Any = None
    """A path, PIL image, numpy array or pydicom dataset (see `medvlm_r1.serving.pictures.load`), a list of these, or
    None."""
    options: Sequence[str] = ()
    """Two to ten option texts without letters; empty for an open question."""
    frame: int | None = None
    """Frame of a multi-frame file, from 0."""
    plane: str | None = None
    """Plane of a volume: axial, coronal or sagittal."""
    slice: int | None = None
    """Slice index of a volume along the normal of `plane`, from 0."""
    window: str | None = None
    """Window for gray DICOM or volumes (see `medvlm_r1.data.images.View`)."""
    series: int | None = None
    """DICOM series in a folder or ZIP archive, from 0."""
    template: str = "medvlm-r1"
    """Name of a prompt template in `medvlm_r1.prompts.templates.TEMPLATES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. Research use only: it is not a clinical finding."""

    letter: str | None
    """The letter in the answer tag by the strict rule; None if there is none or no option has it."""
    option: str | None
    """The text of the option with this letter; None if there is none."""
    answer: str | None
    """The text in the answer tag; None if there is none."""
    lenient_letter: str | None
    """The letter by the lenient rule; None if the text names no option or several."""
    reasoning: str | None
    """The text in the think tag; None if there is none."""
    text: str
    """The full generated text."""
    confidence: dict[str, float] | None
    """Probability by option: that of the option's letter right after the opening answer tag, normalized over the
    options. None if it was not computed, and for an open question, a model on a server, or a text without an answer
    tag. Options with equal text share one entry. It measures the model's confidence, not how often it is correct."""
    well_formed: bool
    """Whether the text has the form `<think>...</think><answer>...</answer>`."""
    truncated: bool
    """Whether the text was truncated at the token limit."""
    images: tuple[ImageNote, ...]
    """One note per image shown to the model: frame or slice, window, warnings."""
    notice: str = RESEARCH_USE
    """The research-use notice, to be shown with every answer."""

    @property
    def image_note(self) -> str:
        """The notes on the images shown to the model, one line per image."""
        return "\n".join(note.summary() for note in self.images)

    def as_record(self) -> dict[str, Any]:
        """Return a JSON-serializable record; `image` is the note of the first image."""
        images = [note.as_record() for note in self.images]
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**record, "images": images, "image": images[0] if images else None}


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
        images: Notes of the images shown to the model.
        probabilities: Probability of each option; None if unknown.
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
