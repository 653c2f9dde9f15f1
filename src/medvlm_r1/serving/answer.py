"""What is asked and what comes back."""

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
    """The question alone, without options."""
    image: Any = None
    """A path, PIL image, numpy array or pydicom dataset (see `medvlm_r1.serving.pictures.load`), a list of them, or
    None."""
    options: Sequence[str] = ()
    """Two to ten texts without letters; none for an open question."""
    frame: int | None = None
    """Of a file with several, from 0."""
    plane: str | None = None
    """NIfTI: axial, coronal or sagittal."""
    slice: int | None = None
    """NIfTI: across the plane, from 0."""
    window: str | None = None
    """Grey DICOM and NIfTI: brain, lung, soft-tissue, bone, percentile, full, stored, or CENTRE/WIDTH."""
    template: str = "medvlm-r1"
    """A name in `medvlm_r1.prompts.templates.ALL_TEMPLATES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. Research use only: nothing in it is a finding."""

    letter: str | None
    """The letter between the answer tags, by the strict rule, where it is one of those offered; else None."""
    option: str | None
    """The option's text that the letter stands for."""
    answer: str | None
    """What stands between the answer tags, whatever it is."""
    lenient_letter: str | None
    """The letter a patient reader would take it for; None where that is unclear."""
    reasoning: str | None
    """What stands between the think tags."""
    text: str
    """Everything the model wrote."""
    confidence: dict[str, float] | None
    """Option to its probability among the options, as what follows the model's own text up to and including the answer
    tag. None for an open question, for a model on a server, and where the model wrote no answer tag. Options of
    equal text share one entry. It says how sure the model is, not how often it is right."""
    well_formed: bool
    """Whether the text has the form `<think>...</think><answer>...</answer>`."""
    truncated: bool
    """Whether the text was cut off at the limit of tokens."""
    images: tuple[ImageNote, ...]
    """What was shown, one note per image: frame or slice, window, warnings."""
    notice: str = RESEARCH_USE
    """To be shown wherever the answer is."""

    @property
    def image_note(self) -> str:
        """One line per image on what was shown."""
        return "\n".join(note.summary() for note in self.images)

    def as_record(self) -> dict[str, Any]:
        """All of it as values that JSON knows; `image` is the note of the first image."""
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
    """An answer from what a model wrote.

    Args:
        generation: The completion.
        options: Those offered, in the order of their letters.
        images: Notes of the images shown.
        probabilities: One per option, where known.
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
