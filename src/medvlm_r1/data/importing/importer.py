"""From a source as it was downloaded to a data folder, the same way for every format."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from medvlm_r1.data.folder import refuse_other, write_folder
from medvlm_r1.data.importing.draft import NOTHING_SAID, Format, Reading
from medvlm_r1.data.importing.finder import ImageFinder
from medvlm_r1.data.importing.run import ImportReport, ImportRun, Progress
from medvlm_r1.data.modality import MODALITIES, modality_name
from medvlm_r1.data.readers.closed import ClosedQuestions
from medvlm_r1.data.subjects import SubjectHasher
from medvlm_r1.errors import UsageError

__all__ = ["ImportReport", "Importer", "Progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer(Format):
    """The reader of a format: makes a data folder from a source as it was downloaded."""

    def __call__(
        self,
        source: str | Path,
        /,
        *,
        out: str | Path,
        images: str | Path | None = None,
        modality: str | Iterable[str] | None = None,
        skip_bad: bool = False,
        reading: Reading = NOTHING_SAID,
        closed_choices: bool = False,
        salt_file: str | Path | None = None,
        progress: Progress | None = None,
    ) -> ImportReport:
        """Make a data folder.

        Every row is checked before anything is written. Ids are format, part and row: `slake-train-000123`.

        Args:
            source: The file or folder that was downloaded.
            out: The data folder to make or replace. Images that are there are copied to `out/images`; a row whose
                image is not there is kept with `missing=True`.
            images: The folder of the image files, where they are not beside the rows as published.
            modality: Keep these modalities only, in any known spelling. Rows that name none are left out then;
                without it they are an error.
            skip_bad: Leave out rows that cannot be read, and report them, instead of stopping.
            reading: What the columns hold, for questions of one's own; and the modality of rows that name none.
            closed_choices: Give options to the closed questions whose candidates the set tells; see `ClosedQuestions`.
            salt_file: Salt of the hashes that DICOM subjects are; the user's own when None.
            progress: Called now and then.

        Returns:
            The report.

        Raises:
            UserError: A row is malformed or lacks a field, has an unknown modality, an answer that is not among its
                options, or an image that leads out of its folder or cannot be shown; no row is left; or `out` holds
                another data set. The message names the file, each different fault and the first row that has it.
            UsageError: A modality asked for is not known, or the format's columns are fixed.
        """
        out = Path(out)
        wanted = chosen_modalities(modality)
        if not self.own_columns and (reading.columns or reading.first_option is not None):
            raise UsageError(f"{self.name} has columns of its own; --map and --first-option are for your own questions")
        found = self.find(Path(source))
        refuse_other(out, self.name)
        run = ImportRun(
            format=self,
            finder=ImageFinder(found.root if images is None else images, self.folders),
            parts=[replace(part, reading=reading) for part in found.parts],
            wanted=wanted,
            skip_bad=skip_bad,
            progress=progress,
            hasher=SubjectHasher(salt_file),
            closed=ClosedQuestions(choices=closed_choices),
        )
        rows = run.check(source, out)
        samples = run.write(out, rows)
        run.info |= {"name": self.name, "source": self.origin, "license": self.license, "file": Path(source).name}
        write_folder(out, samples, info=run.info)
        return run.report(rows)


def chosen_modalities(modality: str | Iterable[str] | None) -> frozenset[str] | None:
    """Names of the modalities to keep, or None for all.

    Raises:
        UsageError: A modality is not known.
    """
    if modality is None:
        return None
    wanted = [modality] if isinstance(modality, str) else list(modality)
    names = {spelling: modality_name(spelling) for spelling in wanted}
    for spelling, name in names.items():
        if name is None:
            raise UsageError(f"unknown modality {spelling!r}; known: {', '.join(MODALITIES)}")
    return frozenset(name for name in names.values() if name)
