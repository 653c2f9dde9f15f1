"""The one loop every reader shares: rows to samples, images, counts, errors with file and row.

The source is read twice. The first pass checks every row, so that a bad one, wherever it is, leaves the data folder
untouched; the second writes. No row is kept in between, only the names of images that were found and the ids that a
source gives, so memory is bounded by the longest row and by some 300 bytes for each of those.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from medvlm_r1.data.importing.draft import Draft, Format, Part, Row
from medvlm_r1.data.importing.finder import FILE_VIEW, ImageFinder, Placed
from medvlm_r1.data.importing.image_writer import ImageWriter
from medvlm_r1.data.modality import UNKNOWN
from medvlm_r1.data.readers.closed import ClosedQuestions
from medvlm_r1.data.rows import BadRows, RowFaults
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import DICOM_HEADERS, FILE_NAMES, SubjectHasher, column_origin
from medvlm_r1.data.tables import PAST_BAD, Rows
from medvlm_r1.errors import UserError

_ADVICE = "Nothing was written. Correct the source, or leave such rows out with --skip-bad."
_TELL_SECONDS = 0.2


class Progress(Protocol):
    """Told of (done, total, note); the total is not known while rows are checked."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Tell it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
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

    rows: int
    written: int
    missing: int
    by_modality: dict[str, int]
    open_questions: int = 0
    by_split: dict[str, int] = field(default_factory=dict)
    converted: int = 0
    stripped: int = 0
    may_show_text: int = 0
    subjects: int = 0
    subjects_from: dict[str, int] = field(default_factory=dict)
    subject_warning: str = ""
    closed_kept_open: dict[str, dict[str, int]] = field(default_factory=dict)
    bad_rows: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class ImportRun:
    """One import under way: `check`, then `write`, then `report`.

    Attributes:
        format: Which format it is.
        finder: Finds the images.
        parts: The files with rows.
        wanted: Modalities to keep; all when None.
        skip_bad: Leave out rows that cannot be read.
        progress: Told now and then.
        hasher: Makes subjects of DICOM identifiers.
        closed: Gives options to closed questions, or counts those that have none.
        info: What `info.json` says of the import; `write` adds where the subjects are from.
    """

    format: Format
    finder: ImageFinder
    parts: list[Part]
    wanted: frozenset[str] | None
    skip_bad: bool
    progress: Progress | None
    hasher: SubjectHasher
    closed: ClosedQuestions
    info: dict[str, Any] = field(default_factory=dict)
    writer: ImageWriter | None = None
    bad: BadRows = field(default_factory=BadRows)
    malformed: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)
    subjects_from: Counter[str] = field(default_factory=Counter)

    def check(self, source: str | Path, out: Path) -> int:
        """Read every row once; number of rows."""
        rows, kept = 0, 0
        ids: dict[str, str] = {}
        for part, number, row in self._rows(None):
            rows += 1
            made = self._made(part, number, row)
            if made is None:
                continue
            sample, _, draft = made
            kept += 1
            # Ids made from part and row are unique among themselves.
            if draft.id:
                place = f"row {number}" + (f" of {part.file.name}" if part.label else "")
                first = ids.setdefault(sample.id, place)
                if first != place:
                    fault = f"the id {sample.id!r} is used in {first} already; make it unique"
                    self.bad.add(part.file, number, ValueError(fault))
        rows += self.malformed
        if self.bad.count and not self.skip_bad:
            raise self.bad.error(_ADVICE)
        if rows == 0:
            raise UserError(f"{source}: there are no rows, so nothing to import")
        if not kept:
            what = "could be read" if self.bad.count else "is of the modalities asked for"
            found = "\n  ".join(["", *self.bad.lines()])
            raise UserError(f"{source}: none of the {rows} rows {what}; nothing was written to {out}{found}")
        self.finder.settled = True
        return rows

    def write(self, out: Path, rows: int) -> Iterator[Sample]:
        """Read every row again; copy its images, then hand its sample over."""
        self.bad = BadRows()
        self.writer = ImageWriter(out, self.hasher)
        self.counts = {"modality": Counter(), "split": Counter(), "other": Counter()}
        for part, number, row in self._rows(rows):
            made = self._made(part, number, row)
            if made is None:
                continue
            sample, images, draft = made
            try:
                for image in images:
                    self.writer.write(image)
            except UserError as error:
                self.bad.add(part.file, number, error)
                continue
            notes = {image.name: self.writer.notes[image.name] for image in images if image.name in self.writer.notes}
            if notes:
                sample = replace(sample, record={**sample.record, "image_notes": notes})
            sample = self._with_subject(sample, draft)
            self.counts["modality"][sample.modality] += 1
            self.counts["split"][sample.split] += 1
            self.counts["other"].update(missing=int(sample.missing), open=int(not sample.options), written=1)
            yield sample
        if self.bad.count and not self.skip_bad:
            raise self.bad.error("Correct these images, or leave such rows out with --skip-bad.")
        self.info["subjects"] = dict(self.subjects_from.most_common())
        if self.hasher.salt_name:
            self.info["subject_salt"] = self.hasher.salt_name

    def report(self, rows: int) -> ImportReport:
        """The figures of what `write` did."""
        assert self.writer is not None
        notes = self.writer.notes.values()
        return ImportReport(
            rows=rows,
            written=self.counts["other"]["written"],
            missing=self.counts["other"]["missing"],
            by_modality=dict(sorted(self.counts["modality"].items())),
            open_questions=self.counts["other"]["open"],
            by_split=dict(sorted(self.counts["split"].items())),
            converted=len(notes),
            stripped=len(self.writer.stripped),
            may_show_text=sum(note["format"] == "DICOM" and note["burned_in"] != "no" for note in notes),
            subjects=len(self.subjects),
            subjects_from=self.info["subjects"],
            subject_warning=self.hasher.warning() or "",
            closed_kept_open={reason: dict(golds.most_common()) for reason, golds in self.closed.kept_open.items()},
            bad_rows=self.bad.count,
            reasons=tuple(self.bad.lines()),
        )

    def _rows(self, total: int | None) -> Iterator[tuple[Part, int, Row]]:
        done, told, self.malformed = 0, time.monotonic(), 0
        note = "rows checked" if total is None else "rows written"
        for part in self.parts:
            for number, row in self._read(part):
                yield part, number, row
                done += 1
                if self.progress is not None and time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    self.progress(done + self.malformed, total, note)
        if self.progress is not None and total is not None:
            self.progress(done + self.malformed, total, note)

    def _read(self, part: Part) -> Rows:
        """The rows of a part; those that are malformed are counted where the rows after them can be read."""

        def count(number: int, reason: str) -> None:
            self.malformed += 1
            self.bad.add(part.file, number, ValueError(reason))

        past_bad = PAST_BAD.get(part.rows)
        try:
            yield from past_bad(part.file, on_bad=count) if past_bad else part.rows(part.file)
        except UserError as error:
            if not self.bad.count or self.skip_bad:
                raise
            raise self.bad.error(f"{error}. {_ADVICE}") from error

    def _made(self, part: Part, number: int, row: Row) -> tuple[Sample, list[Placed], Draft] | None:
        """Sample, its images, and the draft it was made from; None for a row that is left out."""
        faults: list[ValueError] = []
        try:
            modality = self.format.modality(row, part)
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
            modality = UNKNOWN
        try:
            draft = self.format.draft(row, part)
            draft = self.closed.with_options(draft) if self.finder.settled else self.closed.collected(draft)
            images = [self.finder.place(image, draft.view) for image in draft.images]
            sample = self._sample(draft, modality, part, number, images)
        except ValueError as error:
            faults.append(error)
        if faults:
            each = [error.faults if isinstance(error, RowFaults) else (str(error),) for error in faults]
            self.bad.add(part.file, number, RowFaults(fault for group in each for fault in group))
            return None
        return sample, images, draft

    def _sample(self, draft: Draft, modality: str, part: Part, number: int, images: list[Placed]) -> Sample:
        # Slices of one volume have other names, and the subject may be the row's own or another image's.
        sources = list(dict.fromkeys(image.stem for image in images if image.view != FILE_VIEW))
        return Sample(
            id=draft.id or self._own_id(part, number),
            images=tuple(image.name for image in images),
            question=draft.question,
            options=draft.options,
            answer=draft.answer,
            modality=modality,
            question_type=draft.question_type,
            # The DICOM header may tell more, once the image is written.
            subject=draft.subject or (images[0].stem if images else ""),
            split=draft.split or part.split,
            missing=draft.missing or not all(image.there for image in images),
            record={**draft.record, "image_sources": sources} if sources else draft.record,
        )

    def _with_subject(self, sample: Sample, draft: Draft) -> Sample:
        """The sample with the subject of its DICOM images where its row names none; counts where subjects are from."""
        assert self.writer is not None
        subject, origin = sample.subject, FILE_NAMES
        if draft.subject:
            origin = column_origin(draft.subject_column)
        elif hashed := next(filter(None, map(self.writer.subjects.get, sample.images)), ""):
            subject, origin = hashed, DICOM_HEADERS
        if subject:
            self.subjects.add(subject)
            self.subjects_from[origin] += 1
        return replace(sample, subject=subject)

    def _own_id(self, part: Part, number: int) -> str:
        return "-".join(word for word in (self.format.name, part.label, f"{number:06d}") if word)
