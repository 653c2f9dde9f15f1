"""The output of a format's reader: where a source has its rows, and what a row means."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_r1.data.images.picture import FILE_VIEW, View
from medvlm_r1.data.tables import RowReader

Row = dict[str, Any]

YOUR_OWN = "your own"
"""Origin of what is not published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One row as parsed by a reader.

    Attributes:
        question: The question alone.
        answer: Text of the correct option, or the open answer.
        options: Option texts without letters; empty for an open question.
        images: Names in the source, or the bytes of the files.
        view: What to show of an image that is a volume or has several frames.
        question_type: One of OmniMedVQA's five, or empty.
        subject: Patient or volume; when empty, the import takes it from the DICOM header or the first image's name.
        subject_column: The column that names the subject, where there is one.
        closed: The set calls the question closed, so its answer is one of a few.
        split: The part's when empty.
        id: Made from format, part and row when empty.
        missing: Whether the source lacks the image that the question is about.
        record: Further fields to keep. JSON values only.
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
    missing: bool = False
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A user's settings for the columns of a table.

    Attributes:
        columns: Pairs of a sample field and the table's column, such as `("image", "image_path")`.
        first_option: If answers are option numbers, the number of the first option (0 or 1); otherwise None.
        modality_for_missing: The modality of rows that name none.
    """

    columns: tuple[tuple[str, str], ...] = ()
    first_option: int | None = None
    modality_for_missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a source.

    Attributes:
        file: The file.
        rows: Reads its rows, counted from 1.
        split: Name of the split that the file is, or empty.
        label: Tells the ids of this part's rows from others'; empty when the source is one file.
        reading: The user's settings for its columns.
    """

    file: Path
    rows: RowReader
    split: str = ""
    label: str = ""
    reading: Reading = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files at the path that the user gave.

    Attributes:
        root: The folder that image names are relative to, unless the user names another.
        parts: The files with rows.
    """

    root: Path
    parts: list[Part]
