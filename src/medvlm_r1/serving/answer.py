"""Question and answer types of `MedVLM`, and the loading of its images. Nothing is written to disk."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from medvlm_r1.console import fill
from medvlm_r1.data.images import ImageNote, Picture, View, load_picture
from medvlm_r1.data.images.files import InMemoryFile
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.models.generate import Generation
from medvlm_r1.models.shown import BoxFrame
from medvlm_r1.prompts.boxes import Edges, parse_boxes, without_boxes
from medvlm_r1.prompts.parser import is_well_formed, parse_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with any number of images, or none."""

    question: str
    """The question text, without options."""
    image: Any = None
    """A path, PIL image, numpy array or pydicom dataset (see `medvlm_r1.serving.answer.load`), a list of these, or
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
    boxes: tuple[Edges, ...]
    """The boxes in the text, as fractions of the width and height of the only image; empty if the template asks for
    none."""
    malformed_boxes: int
    """Number of malformed boxes in the text."""
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
    frame: BoxFrame | None = None,
) -> Answer:
    """Parse a completion into an answer.

    Args:
        generation: The completion.
        options: The offered options, in letter order.
        images: Notes of the images shown to the model.
        probabilities: Probability of each option; None if unknown.
        frame: Coordinates of the boxes, which a well-formed text may then have; None if the template asks for none.
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
        well_formed=is_well_formed(without_boxes(generation.text) if frame else generation.text),
        boxes=tuple(frame.boxes(generation.text)) if frame else (),
        malformed_boxes=parse_boxes(generation.text, frame.shown_size).malformed if frame else 0,
        truncated=generation.truncated,
        images=tuple(images),
    )


def report_lines(answer: Answer, *, open_question: bool) -> list[str]:
    """The answer as lines of text."""
    return fill(Path(__file__).with_name("answer.txt"), answer=answer, open=open_question)


def load(image: Any, view: View = View()) -> Picture:  # noqa: B008 - frozen
    """Load one image, with a note on how it was loaded.

    Args:
        image: A path; the bytes of a file; a PIL image; a numpy array (rows, columns) of uint8, uint16 or bool or
            (rows, columns, 3 or 4) of uint8; a pydicom dataset with pixels; or a `Picture`, which is returned
            unchanged.
        view: Frame, slice and window to show.

    Returns:
        The result of `medvlm_r1.data.images.load_picture`. For a PIL image or an array, the format in its note is TIFF.

    Raises:
        UserError, UsageError: See `load_picture`. Also raised if the type of `image` is not supported.
    """
    from numpy import ndarray
    from PIL.Image import Image
    from pydicom.dataset import Dataset

    match image:
        case Picture():
            return image
        case str() | Path():
            return load_picture(image, view)
        case bytes() | bytearray():
            return load_picture(InMemoryFile.of(bytes(image), "the image"), view)
        case Image():
            return load_picture(InMemoryFile.of(_tiff(image), "the image"), view)
        case ndarray():
            return load_picture(InMemoryFile.of(_tiff(_pil(image)), "the array"), view)
        case Dataset():
            return load_picture(InMemoryFile.of(_dicom(image), "dataset.dcm"), view)
    raise UserError(
        f"The image is a {type(image).__name__}; expected a path, bytes, a PIL image, a numpy array or a pydicom "
        "dataset."
    )


def _pil(array: Any) -> Any:
    from PIL import Image

    gray = array.ndim == 2 and array.dtype.name in ("uint8", "uint16", "bool")
    color = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype.name == "uint8"
    if not (gray or color) or 0 in array.shape:
        raise UserError(
            f"The array has the shape {array.shape} and dtype {array.dtype}; expected (rows, columns) of uint8 or "
            "uint16, or (rows, columns, 3) of uint8."
        )
    return Image.fromarray(array)


def _tiff(image: Any) -> bytes:
    """Encode a Pillow image of any mode as TIFF, without loss."""
    from PIL import ImageOps

    stream = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        elif upright.mode in ("YCbCr", "HSV"):
            upright = upright.convert("RGB")
        upright.save(stream, "TIFF", exif=b"")
    # Pillow reads a lazily opened file only here, and its plug-ins may raise any exception.
    except Exception as error:
        raise UserError(f"The image is damaged or has an unsupported mode ({error}); convert it to RGB.") from error
    return stream.getvalue()


def _dicom(dataset: Any) -> bytes:
    stream = io.BytesIO()
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    known = syntax is not None or dataset.original_encoding != (None, None)
    encoding = {} if known else {"implicit_vr": True, "little_endian": True}
    try:
        dataset.save_as(stream, enforce_file_format=False, **encoding)
    except Exception as error:
        kind = type(error).__name__
        raise UserError(f"The dataset cannot be encoded ({kind}); save it as a file and pass its path.") from error
    return stream.getvalue()
