"""Sample, the record that all rooms share: a question about images, its options and its answer."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.paths import leaves_folder
from medvlm_r1.data.question import LETTERS, question_faults, text_fault
from medvlm_r1.data.rows import RowFaults

__all__ = ["LETTERS", "Sample", "row_from_sample", "sample_from_row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question. Checked when it is made, so that every later step can rely on it.

    Attributes:
        id: Unique in its data folder.
        images: Paths relative to the data folder, such as `images/x.png`; empty when the question has no image.
        question: The question alone, without options.
        options: Option texts without letters, two to ten, all different; empty for an open question.
        answer: Text of the correct option, or the open answer.
        modality: `MRI`, `CT`, `X-ray`, ...
        question_type: One of OmniMedVQA's five types, or empty.
        subject: Patient or volume: the cluster for statistics. Empty when unknown.
        split: Name of the split, or empty.
        missing: Whether an image file was missing at import, or the source does not name it.
        record: PhantomVQA's truth, or fields of the source. JSON values only.

    Raises:
        RowFaults: A field is of the wrong type or empty, the question breaks a rule of `question_faults`, the answer
            is not among the options, or an image path leaves the data folder. All faults are named.
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
        faults = [
            text_fault(name, getattr(self, name), needed=name in _REQUIRED)
            for name in ("id", "answer", "modality", "question_type", "subject", "split")
        ]
        faults += [
            f"{name} must be a tuple of texts, not {values!r}"
            for name, values in (("images", self.images), ("options", self.options))
            if not isinstance(values, tuple)
        ]
        if isinstance(self.options, tuple):
            faults += question_faults(self.question, self.options)
            if self.options and isinstance(self.answer, str) and self.answer not in self.options:
                faults.append(f"answer {self.answer!r} is not among the options {list(self.options)}")
        kinds: tuple[tuple[str, type, str], ...] = (("missing", bool, "true or false"), ("record", dict, "an object"))
        faults += [
            f"{name} must be {wanted}, not {getattr(self, name)!r}"
            for name, kind, wanted in kinds
            if not isinstance(getattr(self, name), kind)
        ]
        for path in self.images if isinstance(self.images, tuple) else ():
            fault = text_fault("images", path)
            if not fault and leaves_folder(path):
                fault = f"image path {path!r} leaves the data folder; give a path inside it, 'images/x.png'"
            faults.append(fault)
        if any(faults):
            raise RowFaults([fault for fault in faults if fault])

    @property
    def letter(self) -> str:
        """Letter of the correct option, `A` to `J`; empty for an open question."""
        return LETTERS[self.options.index(self.answer)] if self.options else ""

    @property
    def cluster(self) -> str:
        """Cluster for statistics: the patient or volume, or the item itself if that is unknown."""
        return self.subject or self.id

    @property
    def unnamed_image(self) -> bool:
        """Whether the question needs an image that its source does not name. It is not a text-only question."""
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
        RowFaults: A field is absent, unknown or of the wrong type, or `Sample` refuses the values. The text names
            the field and the value; the caller adds file and row.
    """
    known = [f.name for f in fields(Sample)]
    faults = [f"field {name!r} is missing" for name in _REQUIRED if name not in row]
    faults += [f"unknown field {name!r}; {did_you_mean(name, known)}" for name in row if name not in known]
    values = dict(row)
    for name in ("images", "options"):
        if not isinstance(values.get(name, []), list):
            faults.append(f"{name} must be a list of texts, not {values[name]!r}")
        elif name in values:
            values[name] = tuple(values[name])
    if faults:
        raise RowFaults(faults)
    return Sample(**values)


def row_from_sample(sample: Sample) -> dict[str, Any]:
    """Field name to value, ready for JSON; the inverse of `sample_from_row`."""
    return {f.name: getattr(sample, f.name) for f in fields(Sample)}
