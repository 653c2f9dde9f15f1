"""Findings of a data check, by type. All are counted; the first of each type are listed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Literal, TypeVar

LISTED = 100
"""Findings of one kind that are listed; all are counted."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Listed(Generic[Item]):
    """Findings of one kind.

    Attributes:
        count: All there are.
        items: The first of them.
    """

    count: int = 0
    items: tuple[Item, ...] = ()

    @classmethod
    def of(cls, found: Iterable[Item]) -> Listed[Item]:
        """Count all, keep the first."""
        iterator = iter(found)
        items = tuple(islice(iterator, LISTED))
        return cls(len(items) + sum(1 for _ in iterator), items)

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A folder, or one split of a folder that holds several.

    Attributes:
        name: What it is called in the findings.
        folder: As it was given.
        split: The samples' split, where the folder holds several.
        reference: Given to compare with, so what lies within it is not reported.
        samples: Rows that could be read.
        images: Different image files they name.
        without_image: Samples that name no image.
        open_questions: Samples without options.
        options: Number of options to number of samples.
        modalities: Samples of each.
        question_types: Samples of each; "" where none is given.
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
        file: The folder's name and `samples.jsonl`.
        row: From 1.
        kind: "answer" where the answer is not one of the options, else "row".
        reason: What is wrong.
    """

    file: str
    row: int
    kind: Literal["answer", "row"]
    reason: str


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a picture or a question is.

    Attributes:
        part: Name of the part.
        sample: Id of the sample, the first of several.
        image: Path relative to the data folder; "" without one. It may name a patient: not for people to read.
        number: Which of the sample's images it is, from 1; 0 where there is one at most.
    """

    part: str
    sample: str
    image: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be shown, and why; the loader's reason without the folder."""

    place: Place
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """One picture, pixel by pixel, in several places (all counted, the first listed)."""

    places: Listed[Place]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearPair:
    """Two pictures whose perceptual hashes differ in `distance` of 64 bits; either may have copies elsewhere.

    `flip` says how the second has to be turned for that, such as "mirrored left to right"; empty if not at all.
    """

    a: Place
    b: Place
    distance: int
    flip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Questions of a part that share something with another part.

    Attributes:
        part: Name of the part.
        samples: Questions in it.
        any: Questions that share at least one of the following.
        picture: Questions that show a picture of another part.
        near: Questions that show nearly a picture of another part.
        subject: Questions about a subject or volume of another part.
    """

    part: str
    samples: int
    any: int
    picture: int
    near: int
    subject: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSubject:
    """A patient or volume in several parts, by one sample in each; the subject's own name may be a patient's."""

    places: tuple[Place, ...]
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question asked several times about the same pictures with the same options, and the answers it has."""

    places: Listed[Place]
    parts: tuple[str, ...]
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Pictures that are the same, or nearly.

    Attributes:
        blank: Pictures of one colour all over, which are compared with nothing.
        faint: Pictures with too little contrast for a perceptual hash.
        copies_between: The same picture in several parts.
        copies_within: The same picture in several files of one part.
        near_between: Nearly the same picture in two parts.
        near_subjects: ... in one part, of two subjects.
        near_within: ... in one part, of one subject or of unknown ones.
    """

    blank: Listed[Place]
    faint: Listed[Place]
    copies_between: Listed[Copies]
    copies_within: Listed[Copies]
    near_between: Listed[NearPair]
    near_subjects: Listed[NearPair]
    near_within: Listed[NearPair]
