"""Output of the format readers: the files of a source and the parsed rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_r1.data.images.picture import FILE_VIEW, View
from medvlm_r1.data.sample import Box

Row = dict[str, Any]

YOUR_OWN = "your own"
"""Origin recorded for a user's own, unpublished data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One row as parsed by a reader.

    Attributes:
        question: The question alone, without options.
        answer: Text of the correct option, or the open answer.
        options: Option texts without letters; empty for an open question.
        images: Names of the images in the source, or the bytes of the image files.
        view: The frame, slice and window to show, for a volume or a file with several frames.
        question_type: One of OmniMedVQA's five question types, or empty.
        subject: Patient or volume. If empty, the import takes it from the DICOM header or the first image's name.
        subject_column: Name of the column that contains the subject, if there is one.
        closed: Whether the data set marks the question as closed, which means that the answer is one of a few.
        split: Name of the split. If empty, the split of the part is used.
        id: Id of the sample. If empty, the id is made from format, part and row.
        boxes: Boxes in pixels of the images; empty if it is known that there is no finding, None if unknown.
        missing: Whether the source lacks the image that the question is about.
        record: Further fields to store in the sample. JSON values only.
    """

    question: str
    answer: str
    options: tuple[str, ...] = ()
    images: tuple[str | bytes, ...] = ()
    view: View = FILE_VIEW
    question_type: str = ""
    subject: str = ""
    subject_column: str = "subject"
    closed: bool = False
    split: str = ""
    id: str = ""
    boxes: tuple[Box, ...] | None = None
    missing: bool = False
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A user's settings for reading a table.

    Attributes:
        columns: Pairs of a sample field and the table column that contains it, such as `("image", "image_path")`.
        first_option: If answers are option numbers, the number of the first option (0 or 1); otherwise None.
        modality_for_missing: Modality to use for rows that do not name one.
    """

    columns: tuple[tuple[str, str], ...] = ()
    first_option: int | None = None
    modality_for_missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a source.

    Attributes:
        file: The file.
        split: Name of the split that the file contains, or empty.
        label: Text in the sample ids that distinguishes this file from others; empty if the source is a single file.
        reading: The user's settings for the columns.
    """

    file: Path
    split: str = ""
    label: str = ""
    reading: Reading = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files at the path that the user gave.

    Attributes:
        root: Folder that image names are relative to, unless the user specifies another.
        parts: The files that contain rows.
    """

    root: Path
    parts: list[Part]
