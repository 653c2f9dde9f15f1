"""Subjects of imported samples: patient columns of a table, and salted hashes of DICOM identifiers.

A subject is the unit that must not be in two splits. It comes from a patient column of the row. Without one, it comes
from the header of the row's first DICOM image; otherwise it is the name of the image file.
"""

import gzip
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from medvlm_r1.data.images.files import GZIP, LengthCheckedReader, silence_logging
from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError

FILE_NAMES = "file names"
DICOM_HEADERS = "DICOM headers (salted hash)"

_KEY = r"(id|ids|uid|no|nr|num|number|code|key|hash|index|identifier|pseudonym)"
# Most general first: a patient has studies, a study has series or volumes.
_LEVELS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"subject|(anon\w*|deid\w*|dicom|id)?(patient|patienten|subject|participant|case|pt|患者|病人){_KEY}*|id(pat|patient)|pat{_KEY}|pid|mrn",
        rf"accession|(anon\w*|deid\w*|dicom)?(study|exam|examination|accession|encounter|visit)(instance)?{_KEY}+",
        rf"volume{_KEY}*|(series|scan|stack)(instance)?{_KEY}+",
    )
)
# These columns may either identify subjects or describe them.
_AMBIGUOUS = re.compile(r"study|exam|examination|encounter|visit|series|scan|stack|(patient|subject|participant)s?name")
_NOT_GIVEN = frozenset(("", "nan", "none", "null", "n/a", "na"))

_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_SALT_BYTES = 32
_FEWEST_SALT_BYTES = 16
_MANY_STUDIES = 10


@lru_cache(maxsize=1024)
def subject_level(column: str) -> int | None:
    """Level of subject that a column names: patient (0), study (1), series or volume (2); None for other columns."""
    return next((level for level, pattern in enumerate(_LEVELS) if pattern.fullmatch(_bare(column))), None)


def subject_column(row: Mapping[str, Any]) -> tuple[str, str]:
    """Find the subject that a row of a table names, and the column that names it.

    The most general level with a value in the row is used, so patient columns take precedence over study columns.

    Args:
        row: Values by column name.

    Returns:
        Subject and column; two empty texts if no column names a subject.

    Raises:
        ValueError: Two columns of that level contain different values, a subject column contains neither text nor a
            number, or the only candidate is ambiguous, such as a column `study`.
    """
    named: list[tuple[int, str, str]] = []
    for column, value in row.items():
        level = subject_level(column)
        if level is None or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"column {column!r} must name the subject by text or a number, saw {value!r}")
        text = str(value).strip()
        if text.lower() not in _NOT_GIVEN:
            named.append((level, column, text))
    if not named and (ambiguous := next((column for column in row if _AMBIGUOUS.fullmatch(_bare(column))), None)):
        raise ValueError(
            f"column {ambiguous!r} may identify patients or describe them; if it identifies them, name it "
            "'subject' (a pseudonym, not a name), otherwise name it 'note'"
        )
    if not named:
        return "", ""
    most_general, column, subject = min(named, key=lambda entry: entry[0])
    for level, other, text in named:
        if level == most_general and text != subject:
            raise ValueError(
                f"columns {column!r} ({subject!r}) and {other!r} ({text!r}) both name the subject and differ; "
                "remove or rename the one that does not identify patients"
            )
    return subject, column


def column_origin(column: str) -> str:
    """Describe the origin of a subject that comes from a column."""
    kinds = ("", " (studies, not patients)", " (series or volumes, not patients)")
    return f"column {column!r}{kinds[subject_level(column) or 0]}"


def _bare(column: str) -> str:
    return re.sub(r"[\W_]+", "", column).lower()


class SubjectHasher:
    """Hashes DICOM identifiers with a salt, so that no identifier is written."""

    def __init__(self, salt_file: str | Path | None = None) -> None:
        """Set up the salt for the hashes.

        Args:
            salt_file: Existing file that contains the salt. None means the user's own salt, which is read when it is
                first needed, and created if it does not exist.

        Raises:
            UserError: The file cannot be read or is too short.
        """
        self._salt = b"" if salt_file is None else _read_salt(Path(salt_file))
        self._studies: dict[str, set[str]] = {}
        self._used = False

    def subject_of(self, file: Path) -> str:
        """Make the subject of a DICOM file from the identifiers in its header.

        The PatientID is hashed. If it is empty, the StudyInstanceUID is hashed; if both are empty, the
        SeriesInstanceUID.

        Returns:
            `dicom-` followed by 20 hexadecimal digits; empty if the file has none of the three identifiers.

        Raises:
            UserError: The salt cannot be read or created.
        """
        identifiers = _identifiers(file)
        hashes = [self._hash(level, value) if value else "" for level, value in identifiers.items()]
        if hashes and hashes[0]:
            patient, study, series = hashes
            self._studies.setdefault(patient, set()).add(study or series)
        return next(filter(None, hashes), "")

    @property
    def salt_name(self) -> str:
        """Fingerprint of the salt, which does not reveal the salt; empty before the salt is first used."""
        return self._hash("name", "")[-8:] if self._used else ""

    def warning(self) -> str:
        """Warning if one PatientID covers suspiciously many studies, as a placeholder (ANON) would; otherwise empty."""
        studies = [len(group) for group in self._studies.values()]
        most, total = max(studies, default=0), sum(studies)
        alone = len(studies) == 1 and most > 1
        if not alone and not (most >= _MANY_STUDIES and 2 * most > total):
            return ""
        covered = f"all DICOM images, from {most} studies," if alone else f"{most} of {total} DICOM studies"
        return (
            f"One PatientID covers {covered} so they count as one subject. If it is a placeholder (such as ANON or 0), "
            "give each row its patient in a column 'patient_id'."
        )

    def _hash(self, level: str, value: str) -> str:
        if not self._salt:
            self._salt = _own_salt()
        self._used = True
        return "dicom-" + hmac.new(self._salt, f"{level}\0{value}".encode(), hashlib.sha256).hexdigest()[:20]


def count_file_names(samples: Iterable[Sample], info: Mapping[str, Any]) -> int:
    """Count the samples of a data folder whose subject is only the name of an image file.

    Args:
        samples: Samples of the folder.
        info: Content of its `info.json`. If an import did not record the origin of its subjects, they may be file
            names.
    """
    origins = info.get("subjects")
    suspected = FILE_NAMES in origins if isinstance(origins, dict) else "file" in info
    if not suspected:
        return 0
    return sum(
        sample.subject in sample.image_sources
        or sample.images[0].removeprefix("images/").startswith(f"{sample.subject}.")
        for sample in samples
        if sample.subject and sample.images
    )


def file_names_warning(count: int) -> str:
    """Warn about samples whose patients are unknown, so that the file name of the image stands for the subject."""
    return (
        f"Warning: the subject of {count} questions is only the file name of their image. Patients with several images "
        "are not known, so parts may share patients unseen. If you know the patients, import again with a column "
        "'patient_id'."
    )


def unlike_subjects(infos: Mapping[str, Mapping[str, Any]]) -> str:
    """Explain why the subjects of two data folders cannot be compared; empty if they can.

    Args:
        infos: Content of `info.json` for the label of each folder.
    """
    for (first, earlier), (second, later) in combinations(infos.items(), 2):
        origins = [info["subjects"] if isinstance(info.get("subjects"), dict) else {} for info in (earlier, later)]
        # Columns with different names may contain the same subjects. Hashes and file names never match other origins.
        kinds = [{"column" if origin.startswith("column") else origin for origin in each} for each in origins]
        if all(kinds) and not kinds[0] & kinds[1]:
            return (
                f"the subjects of {first} are from {' and '.join(origins[0])}, those of {second} are from "
                f"{' and '.join(origins[1])}. They cannot be compared: import both in one way."
            )
        salts = [info.get("subject_salt") for info in (earlier, later)]
        if all(salts) and salts[0] != salts[1]:
            return (
                f"the DICOM subjects of {first} and {second} are hashed with different salts. They cannot be compared: "
                "import both with one --salt-file."
            )
    return ""


def _identifiers(file: Path) -> dict[str, str]:
    from pydicom import dcmread

    with silence_logging():
        try:
            with LengthCheckedReader(file) as raw, gzip.open(raw) if raw.peek(2).startswith(GZIP) else raw as stream:
                header = dcmread(stream, stop_before_pixels=True, specific_tags=list(_IDENTIFIERS), force=True)
            return {keyword: str(header.get(keyword) or "").strip(" \0") for keyword in _IDENTIFIERS}
        # pydicom's messages quote the header, so they are dropped. A damaged identifier counts as absent.
        except Exception:
            return {}


def _own_salt() -> bytes:
    """Read the user's salt on this machine. It is created at first use, and only the user can read it."""
    # An empty variable counts as unset, as the XDG specification says.
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    file = Path(base) / "medvlm-r1" / "subject-salt"
    advice = f"give a file with at least {_FEWEST_SALT_BYTES} random characters by --salt-file"
    with explain_os_error(f"{file}: the salt for DICOM subjects cannot be written", advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(secrets.token_hex(_SALT_BYTES) + "\n")
    return _read_salt(file)


def _read_salt(file: Path) -> bytes:
    advice = f"give a file with at least {_FEWEST_SALT_BYTES} random characters, the same on every machine"
    with explain_os_error(f"{file}: the salt for DICOM subjects cannot be read", advice):
        salt = file.read_bytes().strip()
    if len(salt) < _FEWEST_SALT_BYTES:
        raise UserError(
            f"{file}: the salt for DICOM subjects has {len(salt)} characters; wanted at least {_FEWEST_SALT_BYTES}"
        )
    return salt
