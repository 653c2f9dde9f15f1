"""Results of a data check: the findings by type, the verdict, and a text report.

All findings are counted. For each type, only the first `LISTED` are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from medvlm_r1.console import fill
from medvlm_r1.data.subjects import file_names_warning
from medvlm_r1.errors import RESEARCH_USE

LISTED = 100
"""Maximum number of findings stored for each type. All findings are counted."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Listed(Generic[Item]):
    """The number of findings of one type, and the first of them.

    Attributes:
        count: Number of findings.
        items: The first findings, at most `LISTED`.
    """

    count: int = 0
    items: tuple[Item, ...] = ()

    @classmethod
    def of(cls, findings: Sequence[Item]) -> Listed[Item]:
        """Count all findings and store the first `LISTED`."""
        return cls(len(findings), tuple(findings[:LISTED]))

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A data folder, or one split of a data folder that contains several splits.

    Attributes:
        name: Name used in the findings.
        folder: Path of the folder, as passed by the caller.
        split: Name of the split if the folder contains several; otherwise empty.
        reference: Whether the part is used for comparison only. Findings within such a part are not reported.
        samples: Number of usable samples.
        images: Number of different image files that the samples name.
        without_image: Number of samples that name no image.
        open_questions: Number of samples without options.
        options: Number of samples for each number of options.
        modalities: Number of samples for each modality.
        question_types: Number of samples for each question type. The key "" counts samples without a type.
    """

    name: str
    folder: str
    split: str
    reference: bool
    samples: int
    images: int
    without_image: int
    open_questions: int
    options: dict[int, int]
    modalities: dict[str, int]
    question_types: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        file: Name of the folder, followed by `/samples.jsonl`.
        row: Row number, counted from 1.
        kind: "answer" if the answer is not one of the options, otherwise "row".
        reason: Description of the fault.
    """

    file: str
    row: int
    kind: Literal["answer", "row"]
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Location of an image or a question.

    Attributes:
        part: Name of the part.
        sample: Id of the sample. If several samples use the image, the id of the first.
        image: Path relative to the data folder; empty if there is no image. The path may contain a patient's name, so
            the text report omits it.
        number: Position of the image in the sample, counted from 1. It is 0 if the sample has at most one image, or for
            the location of a question.
    """

    part: str
    sample: str
    image: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be displayed or processed, and the reason without the path of the image."""

    place: Place
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Locations of images with identical pixels, and the names of the parts that contain them."""

    places: Listed[Place]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two images whose perceptual hashes differ in `distance` of 64 bits. Either image may have copies elsewhere.

    `flip` is the transformation of the second image, such as "mirrored left to right". It is empty if there was none.
    """

    a: Place
    b: Place
    distance: int
    flip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Number of questions in one part that share an image, a near-duplicate or a subject with another part.

    Attributes:
        part: Name of the part.
        samples: Number of questions in the part.
        any: Number of questions that share at least one of the following.
        picture: Number of questions with an image that is also in another part.
        near: Number of questions with a near-duplicate of an image in another part.
        subject: Number of questions about a subject or volume that is also in another part.
    """

    part: str
    samples: int
    any: int
    picture: int
    near: int
    subject: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSubject:
    """A patient or volume with samples in several parts.

    `places` names one sample in each part, and `samples` counts the samples in all parts. The subject itself is not
    stored, because its name may be a patient's.
    """

    places: tuple[Place, ...]
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that occurs several times with the same images and options, and its different answers."""

    places: Listed[Place]
    parts: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Identical and near-duplicate images.

    Attributes:
        blank: Images of a single color. They are not compared.
        faint: Images with too little contrast for a perceptual hash.
        copies_between: Images that occur in several parts.
        copies_within: Images stored in several files of one part.
        near_between: Pairs of near-duplicates in different parts.
        near_subjects: Pairs of near-duplicates in one part that show two different subjects.
        near_within: All other pairs of near-duplicates in one part.
    """

    blank: Listed[Place]
    faint: Listed[Place]
    copies_between: Listed[Copies]
    copies_within: Listed[Copies]
    near_between: Listed[NearPair]
    near_subjects: Listed[NearPair]
    near_within: Listed[NearPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """All findings of a data check. `problems` make the check fail; `notes` do not.

    Attributes:
        parts: The parts that were checked.
        images: Number of different image files that were checked.
        bad_rows: Unusable rows. All other findings exclude them.
        answers_not_options: Number of unusable rows whose answer is not one of the options.
        missing: Image files that do not exist, and images that the source of a row does not name.
        unreadable: Image files that exist but cannot be displayed.
        unfit: Images whose size the given model cannot process.
        contradictory: Questions that occur several times with the same images and options but different answers.
        repeated_between: Questions that occur in several parts with the same images, options and answer.
        repeated_within: Questions that occur several times in one part with the same images, options and answer.
        shared_subjects: Subjects and volumes with samples in several parts.
        sharing: Identical and near-duplicate images.
        touched: For each part, the number of questions that share something with another part.
        file_name_subjects: Number of samples whose subject is only the name of an image file.
        unlike_subjects: Reason why the subjects of two folders cannot be compared; empty if they can.
        near_distance: Maximum number of bits in which the hashes of near-duplicates differ.
        allow_near: Whether near-duplicates in different parts are a note instead of a problem.
    """

    parts: tuple[Part, ...]
    images: int
    bad_rows: Listed[BadRow]
    answers_not_options: int
    missing: Listed[Place]
    unreadable: Listed[BadImage]
    unfit: Listed[BadImage]
    contradictory: Listed[Question]
    repeated_between: Listed[Question]
    repeated_within: Listed[Question]
    shared_subjects: Listed[SharedSubject]
    sharing: Sharing
    touched: tuple[Touched, ...]
    file_name_subjects: int
    unlike_subjects: str
    near_distance: int
    allow_near: bool = False
    notice: str = RESEARCH_USE

    @property
    def problems(self) -> list[str]:
        """Problems that make the check fail, one phrase for each type."""
        empty = [part.name for part in self.parts if not part.samples]
        phrases = _phrases(
            (self.answers_not_options, "row", "with an answer that is not one of its options"),
            (self.bad_rows.count - self.answers_not_options, "row", "that cannot be read"),
            (self.missing.count, "image", "not there"),
            (self.unreadable.count, "image", "that cannot be shown"),
            (self.unfit.count, "image", "of a size that the model cannot process"),
            (self.contradictory.count, "question", "with contradictory answers"),
            (self.sharing.copies_between.count, "image", "in several parts"),
            (self.shared_subjects.count, "subject", "in several parts"),
            (self.repeated_between.count, "question", "about one image in several parts"),
        )
        near = [] if self.allow_near else self._near()
        return [*([f"no usable row in {', '.join(empty)}"] if empty else []), *phrases, *near]

    @property
    def notes(self) -> list[str]:
        """Findings that do not make the check fail, one phrase for each type."""
        near_within = self.sharing.near_subjects.count + self.sharing.near_within.count
        notes = _phrases(
            (self.repeated_within.count, "question", "asked more than once in a part"),
            (self.sharing.copies_within.count, "image", "stored in several files of one part"),
            (near_within, "pair", "of near-duplicate images within a part"),
            (self.sharing.blank.count, "image", "of a single color"),
            (self.sharing.faint.count, "image", "with almost no contrast"),
        )
        return [*(self._near() if self.allow_near else []), *notes]

    @property
    def warnings(self) -> list[str]:
        """Reasons why shared patients may be missed."""
        names = [file_names_warning(self.file_name_subjects)] if self.file_name_subjects else []
        return [*names, *([f"Warning: {self.unlike_subjects}"] if self.unlike_subjects else [])]

    @property
    def only_near(self) -> bool:
        """Whether near-duplicate images are the only problem. A person must review those."""
        return bool(self.problems) and self.problems == self._near()

    @property
    def verdict(self) -> str:
        """Result of the check in one sentence."""
        samples, parts = sum(part.samples for part in self.parts), len(self.parts)
        extent = f"{samples} samples and {self.images} images"
        if self.problems:
            summary = "No certain fault" if self.only_near else "Problems found"
            return f"{summary} in {extent}{', but' if self.only_near else ':'} {'; '.join(self.problems)}."
        unknown = self.file_name_subjects or self.unlike_subjects
        what = "image or question" if unknown else "image, question or subject"
        unsure = "; whether they share patients is not known" if unknown else ""
        shared = f", and the {parts} parts share no {what}{unsure}" if parts > 1 else ""
        return f"No problems found: all of {extent} can be used{shared}."

    def as_record(self) -> dict[str, Any]:
        """Convert the check to plain values for JSON."""
        record = {"ok": not self.problems, "verdict": self.verdict, "problems": self.problems, "notes": self.notes}
        return record | asdict(self)

    def _near(self) -> list[str]:
        what = "of near-duplicate images in different parts, for you to review"
        return _phrases((self.sharing.near_between.count, "pair", what))


def _phrases(*counts: tuple[int, str, str]) -> list[str]:
    """Format each count above 0 as a phrase, such as `2 images not there`."""
    return [f"{number} {noun}{'' if number == 1 else 's'} {what}" for number, noun, what in counts if number]


def check_lines(check: Check) -> list[str]:
    """Format a check for a terminal: what was checked, examples of each problem, and the verdict."""
    return fill(Path(__file__).with_name("report.txt"), check=check)
