"""Import a downloaded source into a data folder. All formats share this code.

The source is read twice. The first pass checks every row, so an invalid row leaves the data folder unchanged. The
second pass writes. Between the passes, only the names of the images that were found and the ids from the source are
stored. Memory is therefore bounded by the longest row and about 300 bytes for each name and id.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm_r1.console import Advance, fill
from medvlm_r1.data.folder import IMAGES, refuse_other, write_folder
from medvlm_r1.data.images.picture import FILE_VIEW
from medvlm_r1.data.importing.boxes import boxes_in_images
from medvlm_r1.data.importing.draft import Draft, Part, Reading, Row, Source
from medvlm_r1.data.importing.images import ImageFinder, ImageWriter, SourceImage
from medvlm_r1.data.modality import MODALITIES, UNKNOWN, modality_name
from medvlm_r1.data.readers.closed import ClosedQuestions
from medvlm_r1.data.rows import BadRows
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import DICOM_HEADERS, FILE_NAMES, SubjectHasher, column_origin
from medvlm_r1.data.tables import rows_of
from medvlm_r1.errors import UsageError, UserError

_ADVICE = "Nothing was written. Correct the source, or leave such rows out with --skip-bad."


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """A record of an import.

    Attributes:
        rows: Number of rows read from the source.
        written: Number of samples written. It is smaller than `rows` if modalities were selected or unusable rows
            skipped.
        missing: Number of written samples with a missing image.
        by_modality: Number of written samples per modality.
        open_questions: Number of written samples without options.
        by_split: Number of written samples per split. The key "" counts samples without a split.
        converted: Number of images converted to PNG, such as DICOM files and slices of volumes.
        stripped: Number of PNG and JPEG files written without their metadata.
        may_show_text: Number of DICOM images that may have text burned into the pixels.
        subjects: Number of different subjects in the written samples.
        subjects_from: Number of written samples for each origin of the subject, such as "column 'patient_id'".
        subject_warning: Reason why the subjects may be wrong; empty if there is none.
        closed_kept_open: Closed questions without options: for each reason, the number of questions by answer.
        bad_rows: Number of rows that were skipped because they could not be used.
        reasons: Faults of the skipped rows. Each different fault is listed once, at most twenty in total.
    """

    rows: int = 0
    written: int = 0
    missing: int = 0
    by_modality: dict[str, int] = field(default_factory=Counter)
    open_questions: int = 0
    by_split: dict[str, int] = field(default_factory=Counter)
    converted: int = 0
    stripped: int = 0
    may_show_text: int = 0
    subjects: int = 0
    subjects_from: dict[str, int] = field(default_factory=Counter)
    subject_warning: str = ""
    closed_kept_open: dict[str, dict[str, int]] = field(default_factory=dict)
    bad_rows: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """The reader of a format. Calling it converts a downloaded source to a data folder.

    Attributes:
        name: Name of the format on the command line and in sample ids.
        origin: Where the data is published.
        license: License under which the data is published.
        find: Finds the files of a source at the path that the user gave.
        modality: Returns the modality of a row, spelled as in `MODALITIES`; None if the row names none. Such a row is
            an error unless the user selects modalities or provides a modality for such rows.
        draft: Parses a row. It is called only for rows of the requested modalities.
        folders: Subfolders of the source that image names may be relative to.
        own_columns: Whether a user may specify which column contains which field.
    """

    name: str
    origin: str
    license: str = "as published"
    find: Callable[[Path], Source]
    modality: Callable[[Row, Part], str | None] = lambda row, part: UNKNOWN
    draft: Callable[[Row, Part], Draft]
    folders: tuple[str, ...] = ("", IMAGES)
    own_columns: bool = False

    def __call__(
        self,
        source: str | Path,
        /,
        *,
        out: str | Path,
        images: str | Path | None = None,
        modality: str | Iterable[str] | None = None,
        skip_bad: bool = False,
        reading: Reading = Reading(),  # noqa: B008 - frozen
        closed_choices: bool = False,
        salt_file: str | Path | None = None,
        progress: Advance | None = None,
    ) -> ImportReport:
        """Convert a source to a data folder.

        Every row is checked before anything is written. A sample id consists of format, part and row, such as
        `slake-train-000123`, unless the source provides ids.

        Args:
            source: The file or folder that was downloaded.
            out: The data folder to create or replace. Images are copied to `out/images`. A row with a missing image is
                imported with `missing=True`.
            images: Folder of the image files; None if they are next to the rows, as published.
            modality: Import only these modalities, in any known spelling. Rows without a modality are then left out;
                otherwise they are an error.
            skip_bad: Skip and report unusable rows instead of stopping.
            reading: Settings for the columns of a user's own questions, and the modality of rows that do not name one.
            closed_choices: Whether to add options to closed questions whose candidates are known; see
                `ClosedQuestions`.
            salt_file: File with the salt for hashing subjects from DICOM headers; None for the user's own salt.
            progress: Called with the number of rows done, the total (None in the first pass), and a label.

        Returns:
            The report.

        Raises:
            UserError: A row is malformed, lacks a field, has an unknown modality, has an answer that is not one of its
                options, or has an image that leads out of its folder or cannot be displayed. Also if no row is left, or
                `out` holds another data set. The message names the file, and each different fault with the first row
                that has it.
            UsageError: A requested modality is unknown, or columns are specified for a format with fixed columns.
        """
        source, out = Path(source), Path(out)
        wanted = chosen_modalities(modality)
        if not self.own_columns and (reading.columns or reading.first_option is not None):
            raise UsageError(f"{self.name} has columns of its own; --map and --first-option are for your own questions")
        files = self.find(source)
        refuse_other(out, self.name)
        writer = ImageWriter(out, SubjectHasher(salt_file))
        closed = ClosedQuestions(choices=closed_choices)
        first = _Pass(
            importer=self,
            finder=ImageFinder(files.root if images is None else images, self.folders),
            parts=[replace(part, reading=reading) for part in files.parts],
            wanted=wanted,
            progress=progress or (lambda done, total, note="": None),
            prepare=closed.collected,
            skip_bad=skip_bad,
        )
        _check(first, source, out)
        # The total number of rows is known after the first pass.
        second = replace(first, prepare=closed.with_options, total=first.rows, bad=BadRows(), rows=0)
        info = {"name": self.name, "source": self.origin, "license": self.license, "file": source.name}
        report = ImportReport()
        write_folder(out, _write(second, writer, report, info), info=info)
        report.closed_kept_open = {why: dict(answers.most_common()) for why, answers in closed.kept_open.items()}
        return report


def chosen_modalities(modality: str | Iterable[str] | None) -> frozenset[str] | None:
    """Names of the modalities to import; None if all are imported.

    Raises:
        UsageError: A modality is unknown.
    """
    if modality is None:
        return None
    wanted = set()
    for spelling in [modality] if isinstance(modality, str) else modality:
        name = modality_name(spelling)
        if name is None:
            raise UsageError(f"unknown modality {spelling!r}; known: {', '.join(MODALITIES)}")
        wanted.add(name)
    return frozenset(wanted)


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass over the rows of a source. It yields the usable rows, and counts all rows and the faults of others."""

    importer: Importer
    finder: ImageFinder
    parts: list[Part]
    wanted: frozenset[str] | None
    progress: Advance
    prepare: Callable[[Draft], Draft]
    skip_bad: bool
    total: int | None = None
    rows: int = 0
    bad: BadRows = field(default_factory=BadRows)
    ids: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Part, int, Sample, list[SourceImage], Draft]]:
        """Yield part, row number, sample, images, and the draft that the sample was made from."""
        note = "rows checked" if self.total is None else "rows written"
        for part in self.parts:

            def skip(number: int, reason: str, file: Path = part.file) -> None:
                self.rows += 1
                self.bad.add(file, number, reason)

            try:
                for number, row in rows_of(part.file)(part.file, on_bad=skip):
                    if usable := self._read(part, number, row):
                        yield part, number, *usable
                    self.progress(self.rows, self.total, note)
                    self.rows += 1
            except UserError as error:
                if not self.bad.count or self.skip_bad:
                    raise
                raise self.bad.error(f"{error}. {_ADVICE}") from error
        if self.total is not None:
            self.progress(self.rows, self.total, note)

    def _read(self, part: Part, number: int, row: Row) -> tuple[Sample, list[SourceImage], Draft] | None:
        """Convert a row to a sample, its images and its draft; None for a row that is left out."""
        faults: list[ValueError] = []
        modality: str | None = UNKNOWN
        try:
            modality = self.importer.modality(row, part)
            if modality in (None, UNKNOWN):
                modality = part.reading.modality_for_missing or modality
            if modality is None and self.wanted is None:
                raise ValueError(
                    "the row names no imaging modality; choose modalities with --modality to leave such rows out, or "
                    "keep them with --modality-for-missing"
                )
            if modality is None or (self.wanted is not None and modality not in self.wanted):
                return None
        except ValueError as error:
            faults.append(error)
        try:
            draft = self.prepare(self.importer.draft(row, part))
            images = [self.finder.locate(image, draft.view) for image in draft.images]
            # Slices of one volume have different names, and the subject may come from the row or from another image.
            sources = list(dict.fromkeys(image.stem for image in images if image.view != FILE_VIEW))
            sample = Sample(
                id=draft.id or "-".join(filter(None, (self.importer.name, part.label, f"{number:06d}"))),
                images=tuple(image.name for image in images),
                question=draft.question,
                options=draft.options,
                answer=draft.answer,
                modality=modality or UNKNOWN,
                question_type=draft.question_type,
                # The second pass replaces this by the subject from a DICOM header, if there is one.
                subject=draft.subject or (images[0].stem if images else ""),
                split=draft.split or part.split,
                boxes=draft.boxes or (),
                truth={"images": [{"findings": []} for _ in images]} if draft.boxes == () and images else {},
                missing=draft.missing or any(image.source is None for image in images),
                record={**draft.record, "image_sources": sources} if sources else draft.record,
            )
            position = f"row {number}" + (f" of {part.file.name}" if part.label else "")
            # Ids made from part and row are unique among themselves.
            if draft.id and (earlier := self.ids.setdefault(sample.id, position)) != position:
                raise ValueError(f"the id {sample.id!r} is used in {earlier} already; make it unique")
        except ValueError as error:
            faults.append(error)
        if faults:
            self.bad.add(part.file, number, *faults)
            return None
        return sample, images, draft


def _check(first: _Pass, source: Path, out: Path) -> None:
    """First pass: read every row, and raise an error if rows are unusable or none is left."""
    usable = sum(1 for _ in first)
    if first.bad.count and not first.skip_bad:
        raise first.bad.error(_ADVICE)
    if first.rows == 0:
        raise UserError(f"{source}: there are no rows, so nothing to import")
    if not usable:
        what = "could be read" if first.bad.count else "is of the requested modalities"
        faults = "\n  ".join(["", *first.bad.lines()])
        raise UserError(f"{source}: none of the {first.rows} rows {what}; nothing was written to {out}{faults}")


def _write(second: _Pass, writer: ImageWriter, report: ImportReport, info: dict[str, Any]) -> Iterator[Sample]:
    """Second pass: copy the images of each row, then yield its sample. At the end, complete `info` and the report."""
    subjects = set()
    for part, number, sample, images, draft in second:
        try:
            for image in images:
                writer.write(image)
            boxes = boxes_in_images(sample, writer.out, writer.notes)
        except UserError as error:
            second.bad.add(part.file, number, error)
            continue
        subject, origin = sample.subject, FILE_NAMES
        if draft.subject:
            origin = column_origin(draft.subject_column)
        elif hashed := next(filter(None, map(writer.subjects.get, sample.images)), ""):
            subject, origin = hashed, DICOM_HEADERS
        if subject:
            subjects.add(subject)
            report.subjects_from[origin] += 1
        record = sample.record
        if converted := {name: writer.notes[name] for name in sample.images if name in writer.notes}:
            record = {**record, "image_notes": converted}
        report.written += 1
        report.missing += sample.missing
        report.open_questions += not sample.options
        report.by_modality[sample.modality] += 1
        report.by_split[sample.split] += 1
        yield replace(sample, subject=subject, boxes=boxes, record=record)
    if second.bad.count and not second.skip_bad:
        raise second.bad.error("Correct these images, or leave such rows out with --skip-bad.")
    notes = writer.notes.values()
    report.rows = second.rows
    report.by_modality = dict(sorted(report.by_modality.items()))
    report.by_split = dict(sorted(report.by_split.items()))
    report.subjects_from = info["subjects"] = dict(Counter(report.subjects_from).most_common())
    if writer.hasher.salt_name:
        info["subject_salt"] = writer.hasher.salt_name
    report.converted, report.stripped, report.subjects = len(notes), len(writer.stripped), len(subjects)
    report.may_show_text = sum(note["format"] == "DICOM" and note["burned_in"] != "no" for note in notes)
    report.subject_warning = writer.hasher.warning()
    report.bad_rows, report.reasons = second.bad.count, tuple(second.bad.lines())


def report_lines(report: Mapping[str, Any], *, out: Path, own: bool, closed_choices: bool) -> list[str]:
    """The report of an import as lines of text.

    Args:
        report: Fields of an `ImportReport`. An import that makes its own questions (PhantomVQA, volumes) omits the
            counts.
        out: The data folder.
        own: Whether the rows are the user's own, so that a column can be added.
        closed_choices: Whether closed questions got options.
    """
    values = {"own": own, "closed_choices": closed_choices, "file_names": FILE_NAMES}
    return fill(Path(__file__).with_name("report.txt"), report=report, out=out, **values)
