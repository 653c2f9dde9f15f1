"""The one record everything speaks: a question about images, its options and its answer."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.paths import leaves_folder

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question. Checked when it is made, so that every later step can rely on it.

    Attributes:
        id: Unique in its data folder.
        images: Paths relative to the data folder, such as `images/x.png`; empty when the question has no image.
        question: The question alone, without options.
        options: Option texts without letters, at most ten; empty for an open question. When two options read the
            same, the first is the one that counts.
        answer: The text of the right option, or the open answer.
        modality: `MRI`, `CT`, `X-ray`, ...
        question_type: One of OmniMedVQA's five types, or empty.
        subject: Patient or volume: the cluster for statistics. Empty when unknown.
        split: Name of the split, or empty.
        missing: An image file was not there at import, or the source does not even name it.
        record: PhantomVQA's truth, or fields of the source. JSON values only.

    Raises:
        ValueError: A field is of the wrong type or empty, there are more than ten options, the answer is not among
            the options, or an image path leaves the data folder.
    """

    id: str
    images: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    modality: str
    question_type: str = ""
    subject: str = ""
    split: str = ""
    missing: bool = False
    record: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("id", "question", "answer", "modality", "question_type", "subject", "split"):
            _check_text(name, getattr(self, name), needed=name in _REQUIRED)
        for name, values in (("images", self.images), ("options", self.options)):
            if not isinstance(values, tuple):
                raise ValueError(f"{name} must be a tuple of texts, not {values!r}")
            for value in values:
                _check_text(name, value, needed=True)
        if not isinstance(self.missing, bool):
            raise ValueError(f"missing must be true or false, not {self.missing!r}")
        if not isinstance(self.record, dict):
            raise ValueError(f"record must be an object, not {self.record!r}")
        for path in self.images:
            if leaves_folder(path):
                raise ValueError(f"image path {path!r} leaves the data folder; give a path inside it, 'images/x.png'")
        if len(self.options) > len(LETTERS):
            raise ValueError(f"{len(self.options)} options; at most {len(LETTERS)} (A to J) can be lettered")
        if self.options and self.answer not in self.options:
            raise ValueError(f"answer {self.answer!r} is not among the options {list(self.options)}")

    @property
    def letter(self) -> str:
        """Letter of the right option, `A` to `J`; empty for an open question."""
        return LETTERS[self.options.index(self.answer)] if self.options else ""

    @property
    def cluster(self) -> str:
        """What stands together in statistics: the patient or volume, or the item itself where that is not known."""
        return self.subject or self.id

    @property
    def unnamed_image(self) -> bool:
        """Whether it asks about an image that its source does not name: not to be taken for one without an image."""
        return self.missing and not self.images

    @property
    def image_sources(self) -> tuple[str, ...]:
        """The volumes and files of several frames that its images are parts of: place and name without suffix."""
        names = self.record.get("image_sources")
        return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


_REQUIRED = tuple(f.name for f in fields(Sample) if f.default is MISSING and f.default_factory is MISSING)


def sample_from_row(row: Mapping[str, Any]) -> Sample:
    """Read a sample from one decoded line of `samples.jsonl`.

    Args:
        row: Field name to JSON value.

    Returns:
        The sample.

    Raises:
        ValueError: A field is absent, unknown or of the wrong type, or `Sample` refuses the values. The text names
            the field and the value; the caller adds file and row.
    """
    known = [f.name for f in fields(Sample)]
    for name in _REQUIRED:
        if name not in row:
            raise ValueError(f"field {name!r} is missing")
    for name in row:
        if name not in known:
            raise ValueError(f"unknown field {name!r}; {did_you_mean(name, known)}")
    values = dict(row)
    for name in ("images", "options"):
        if not isinstance(values[name], list):
            raise ValueError(f"{name} must be a list of texts, not {values[name]!r}")
        values[name] = tuple(values[name])
    return Sample(**values)


def row_from_sample(sample: Sample) -> dict[str, Any]:
    """Field name to value, ready for JSON; the inverse of `sample_from_row`."""
    return {f.name: getattr(sample, f.name) for f in fields(Sample)}


def _check_text(name: str, value: object, *, needed: bool) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}")
    if needed and not value.strip():
        raise ValueError(f"{name} holds an empty text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a character (a lone surrogate): {value!r}") from error
