"""The result of a data check, with its verdict in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from medvlm_r1.data.check.findings import (
    BadImage,
    BadRow,
    Listed,
    Part,
    Place,
    Question,
    SharedSubject,
    Sharing,
    Touched,
)
from medvlm_r1.errors import RESEARCH_USE


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """All findings. `problems` make the check fail, `notes` do not.

    Attributes:
        parts: What was checked.
        images: Different image files looked for.
        bad_rows: Rows that cannot be used; they are left out of all else.
        answers_not_options: Of these, rows whose answer is not one of the options.
        missing: Images that are not there, or that the source of a row does not even name.
        unreadable: Images that are there and cannot be shown.
        unfit: Images of a size that the model asked about cannot process.
        contradictory: The same question about the same pictures with different answers.
        repeated_between: The same with the same answer, in several parts.
        repeated_within: The same with the same answer, in one part.
        shared_subjects: The same subject in several parts.
        sharing: Pictures that are the same, or nearly.
        touched: How many questions of each part share something with another part.
        file_name_subjects: Samples whose subject is only the name of an image file.
        unlike_subjects: Why the subjects of two folders cannot be compared; empty if they can.
        near_distance: Most bits in which near pictures differ.
        allow_near: Whether near pairs between parts are a note and no problem.
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
    notice: str = field(default=RESEARCH_USE)

    @property
    def problems(self) -> list[str]:
        """Reasons not to use the data unchanged, one phrase each."""
        empty = [part.name for part in self.parts if not part.samples]
        unread = self.bad_rows.count - self.answers_not_options
        found = [
            f"no usable row in {', '.join(empty)}" if empty else "",
            _count(self.answers_not_options, "{} with an answer that is not one of its options", "row"),
            _count(unread, "{} that cannot be read", "row"),
            _count(self.missing.count, "{} not there", "image"),
            _count(self.unreadable.count, "{} that cannot be shown", "image"),
            _count(self.unfit.count, "{} of a size that the model cannot process", "image"),
            _count(self.contradictory.count, "{} with contradictory answers", "question"),
            _count(self.sharing.copies_between.count, "{} in several parts", "picture"),
            _count(self.shared_subjects.count, "{} in several parts", "subject"),
            _count(self.repeated_between.count, "{} about one picture in several parts", "question"),
            "" if self.allow_near else self._near(),
        ]
        return [phrase for phrase in found if phrase]

    @property
    def notes(self) -> list[str]:
        """Remarks that are no fault, one phrase each."""
        near_within = self.sharing.near_subjects.count + self.sharing.near_within.count
        found = [
            self._near() if self.allow_near else "",
            _count(self.repeated_within.count, "{} asked more than once in a part", "question"),
            _count(self.sharing.copies_within.count, "{} kept in several files of one part", "picture"),
            _count(near_within, "{} of nearly alike pictures within a part", "pair"),
            _count(self.sharing.blank.count, "{} of one colour all over", "picture"),
            _count(self.sharing.faint.count, "{} with hardly any contrast", "picture"),
        ]
        return [phrase for phrase in found if phrase]

    @property
    def only_near(self) -> bool:
        """Whether near-identical images are the only problem. A person has to judge those."""
        return bool(self.problems) and self.problems == [self._near()]

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        samples, parts = sum(part.samples for part in self.parts), len(self.parts)
        looked_at = f"{samples} samples and {self.images} images"
        if self.problems:
            found = "No certain fault" if self.only_near else "Problems found"
            return f"{found} in {looked_at}{', but' if self.only_near else ':'} {'; '.join(self.problems)}."
        unknown = self.file_name_subjects or self.unlike_subjects
        what = "picture or question" if unknown else "picture, question or subject"
        unsure = "; whether they share patients is not known" if unknown else ""
        shared = f", and the {parts} parts share no {what}{unsure}" if parts > 1 else ""
        return f"No problems found: all of {looked_at} can be used{shared}."

    def as_record(self) -> dict[str, Any]:
        """This record as plain values for JSON."""
        record = {"ok": not self.problems, "verdict": self.verdict, "problems": self.problems, "notes": self.notes}
        return record | asdict(self)

    def _near(self) -> str:
        return _count(
            self.sharing.near_between.count, "{} of nearly alike pictures in different parts, to be looked at", "pair"
        )


def _count(number: int, phrase: str, noun: str) -> str:
    return phrase.format(f"{number} {noun}{'' if number == 1 else 's'}") if number else ""
