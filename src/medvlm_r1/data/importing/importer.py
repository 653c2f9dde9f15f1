"""Import of a downloaded source into a data folder, in the same way for every format.

The source is read twice. The first pass checks every row, so that a bad one, wherever it is, leaves the data folder
untouched; the second writes. No row is kept in between, only the names of images that were found and the ids that a
source gives, so memory is bounded by the longest row and by some 300 bytes for each of those.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvlm_r1.console import Advance
from medvlm_r1.data.folder import IMAGES, refuse_other, write_folder
from medvlm_r1.data.images.picture import FILE_VIEW
from medvlm_r1.data.importing.draft import Draft, Part, Reading, Row, Source
from medvlm_r1.data.importing.images import ImageFinder, ImageWriter, SourceImage
from medvlm_r1.data.modality import MODALITIES, UNKNOWN, modality_name
from medvlm_r1.data.readers.closed import ClosedQuestions
from medvlm_r1.data.rows import BadRows
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import DICOM_HEADERS, FILE_NAMES, SubjectHasher, column_origin
from medvlm_r1.errors import UsageError, UserError

_ADVICE = "Nothing was written. Correct the source, or leave such rows out with --skip-bad."


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What an import did.

    Attributes:
        rows: Rows read from the source.
        written: Samples written; fewer than `rows` when modalities were chosen or bad rows left out.
        missing: Samples written of which an image file was not there.
        by_modality: Samples written per modality.
        open_questions: Samples written that have no options.
        by_split: Samples written per split; those without one under the empty text.
        converted: Images converted to PNG: all but PNG and JPEG files.
        stripped: PNG and JPEG files written without their metadata.
        may_show_text: DICOM images that may have text burned into the pixels.
        subjects: Different subjects of the samples written.
        subjects_from: Samples written by the origin of their subject, such as "column 'patient_id'".
        subject_warning: Why the subjects may be wrong; empty if nothing speaks for it.
        closed_kept_open: Closed questions that have no options, by the reason, with the answers of the set.
        bad_rows: Rows left out because they could not be read.
        reasons: What was wrong with them: each different fault once, at most twenty.
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
    """The reader of a format: makes a data folder from a source as it was downloaded.

    Attributes:
        name: On the command line and in the ids.
        origin: Where the data is published.
        license: As published.
        find: The files at the path the user gave.
        modality: The modality of a row, as `MODALITIES` spells it; None if the row names none, which only those who
            choose modalities may leave out.
        draft: What a row means. Called for the rows that are wanted.
        folders: Subfolders of the source that image names may be relative to.
        own_columns: Whether a user may say which column holds what.
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
        """Make a data folder.

        Every row is checked before anything is written. Ids are format, part and row: `slake-train-000123`.

        Args:
            source: The file or folder that was downloaded.
            out: The data folder to make or replace. Images that are there are copied to `out/images`; a row whose
                image is not there is kept with `missing=True`.
            images: The folder of the image files, if they are not next to the rows as published.
            modality: Keep only these modalities, in any known spelling. Rows without one are then left out;
                otherwise they are an error.
            skip_bad: Skip and report unreadable rows instead of stopping.
            reading: Meaning of the columns, for a user's own questions; and the modality of rows without one.
            closed_choices: Add options to closed questions whose candidates are known; see `ClosedQuestions`.
            salt_file: Salt for hashing subjects from DICOM headers; None for the user's own.
            progress: Called from time to time.

        Returns:
            The report.

        Raises:
            UserError: A row is malformed or lacks a field, has an unknown modality, an answer that is not among its
                options, or an image that leads out of its folder or cannot be shown; no row is left; or `out` holds
                another data set. The message names the file, each different fault and the first row that has it.
            UsageError: A modality asked for is not known, or the format's columns are fixed.
        """
        source, out = Path(source), Path(out)
        wanted = chosen_modalities(modality)
        if not self.own_columns and (reading.columns or reading.first_option is not None):
            raise UsageError(f"{self.name} has columns of its own; --map and --first-option are for your own questions")
        files = self.find(source)
        refuse_other(out, self.name)
        run = _Run(
            importer=self,
            finder=ImageFinder(files.root if images is None else images, self.folders),
            parts=[replace(part, reading=reading) for part in files.parts],
            wanted=wanted,
            skip_bad=skip_bad,
            progress=progress,
            writer=ImageWriter(out, SubjectHasher(salt_file)),
            closed=ClosedQuestions(choices=closed_choices),
        )
        run.check(source, out)
        info = {"name": self.name, "source": self.origin, "license": self.license, "file": source.name}
        write_folder(out, run.write(info), info=info)
        return run.report


def chosen_modalities(modality: str | Iterable[str] | None) -> frozenset[str] | None:
    """Names of the modalities to keep, or None for all.

    Raises:
        UsageError: A modality is not known.
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
class _Run:
    """One import in progress: `check`, then `write`, which makes the report."""

    importer: Importer
    finder: ImageFinder
    parts: list[Part]
    wanted: frozenset[str] | None
    skip_bad: bool
    progress: Advance | None
    writer: ImageWriter
    closed: ClosedQuestions
    writing: bool = False
    bad: BadRows = field(default_factory=BadRows)
    rows: int = 0
    report: ImportReport = field(default_factory=ImportReport)

    def check(self, source: Path, out: Path) -> None:
        """Read every row once."""
        usable = 0
        ids: dict[str, str] = {}
        for part, number, sample, _, draft in self._samples():
            usable += 1
            # Ids made from part and row are unique among themselves.
            if draft.id:
                position = f"row {number}" + (f" of {part.file.name}" if part.label else "")
                first = ids.setdefault(sample.id, position)
                if first != position:
                    self.bad.add(part.file, number, f"the id {sample.id!r} is used in {first} already; make it unique")
        if self.bad.count and not self.skip_bad:
            raise self.bad.error(_ADVICE)
        if self.rows == 0:
            raise UserError(f"{source}: there are no rows, so nothing to import")
        if not usable:
            what = "could be read" if self.bad.count else "is of the requested modalities"
            faults = "\n  ".join(["", *self.bad.lines()])
            raise UserError(f"{source}: none of the {self.rows} rows {what}; nothing was written to {out}{faults}")

    def write(self, info: dict[str, Any]) -> Iterator[Sample]:
        """Read every row again; copy its images, then yield its sample. Completes `info` and the report at the end."""
        self.bad, self.writing = BadRows(), True
        writer, notes, report = self.writer, self.writer.notes, self.report
        subjects = set()
        for part, number, sample, images, draft in self._samples():
            try:
                for image in images:
                    writer.write(image)
            except UserError as error:
                self.bad.add(part.file, number, error)
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
            if converted := {name: notes[name] for name in sample.images if name in notes}:
                record = {**record, "image_notes": converted}
            report.written += 1
            report.missing += sample.missing
            report.open_questions += not sample.options
            report.by_modality[sample.modality] += 1
            report.by_split[sample.split] += 1
            yield replace(sample, subject=subject, record=record)
        if self.bad.count and not self.skip_bad:
            raise self.bad.error("Correct these images, or leave such rows out with --skip-bad.")
        report.rows = self.rows
        report.by_modality = dict(sorted(report.by_modality.items()))
        report.by_split = dict(sorted(report.by_split.items()))
        report.subjects_from = info["subjects"] = dict(Counter(report.subjects_from).most_common())
        if writer.hasher.salt_name:
            info["subject_salt"] = writer.hasher.salt_name
        report.converted, report.stripped, report.subjects = len(notes), len(writer.stripped), len(subjects)
        report.may_show_text = sum(n["format"] == "DICOM" and n["burned_in"] != "no" for n in notes.values())
        report.subject_warning = writer.hasher.warning()
        report.closed_kept_open = {why: dict(answers.most_common()) for why, answers in self.closed.kept_open.items()}
        report.bad_rows, report.reasons = self.bad.count, tuple(self.bad.lines())

    def _samples(self) -> Iterator[tuple[Part, int, Sample, list[SourceImage], Draft]]:
        """The usable rows: part, row number, sample, its images, and the draft it was made from."""
        # The number of rows is known once they were checked.
        total = self.rows if self.writing else None
        note = "rows written" if self.writing else "rows checked"
        self.rows = 0
        report = self.progress or (lambda done, total, note: None)
        for part in self.parts:

            def skip(number: int, reason: str, file: Path = part.file) -> None:
                self.rows += 1
                self.bad.add(file, number, reason)

            try:
                for number, row in part.rows(part.file, on_bad=skip):
                    if usable := self._read(part, number, row):
                        yield part, number, *usable
                    report(self.rows, total, note)
                    self.rows += 1
            except UserError as error:
                if not self.bad.count or self.skip_bad:
                    raise
                raise self.bad.error(f"{error}. {_ADVICE}") from error
        if total is not None:
            report(self.rows, total, note)

    def _read(self, part: Part, number: int, row: Row) -> tuple[Sample, list[SourceImage], Draft] | None:
        """Sample, its images, and the draft it was made from; None for a row that is left out."""
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
            draft = self.importer.draft(row, part)
            draft = self.closed.with_options(draft) if self.writing else self.closed.collected(draft)
            images = [self.finder.locate(image, draft.view) for image in draft.images]
            # Slices of one volume have other names, and the subject may be the row's own or another image's.
            sources = list(dict.fromkeys(image.stem for image in images if image.view != FILE_VIEW))
            sample = Sample(
                id=draft.id or "-".join(filter(None, (self.importer.name, part.label, f"{number:06d}"))),
                images=tuple(image.name for image in images),
                question=draft.question,
                options=draft.options,
                answer=draft.answer,
                modality=modality or UNKNOWN,
                question_type=draft.question_type,
                # The DICOM header may tell more, once the image is written.
                subject=draft.subject or (images[0].stem if images else ""),
                split=draft.split or part.split,
                missing=draft.missing or any(image.source is None for image in images),
                record={**draft.record, "image_sources": sources} if sources else draft.record,
            )
        except ValueError as error:
            faults.append(error)
        if faults:
            self.bad.add(part.file, number, *faults)
            return None
        return sample, images, draft
