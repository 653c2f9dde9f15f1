"""Subjects of imported samples: patient columns, salted hashes of DICOM identifiers, file names."""

import gzip
import stat

import pydicom
import pytest
from pydicom.data import get_testdata_file

from medvlm_r1.data.check import check_folders
from medvlm_r1.data.check.findings import check_lines
from medvlm_r1.data.folder import read_info
from medvlm_r1.data.split import clusters
from medvlm_r1.data.subjects import SubjectHasher, subject_level
from medvlm_r1.errors import UserError


@pytest.fixture(autouse=True)
def salt(tmp_path, monkeypatch):
    """The file of the user's own salt."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "medvlm-r1" / "subject-salt"


@pytest.fixture
def png(picture):
    """A function that writes a PNG; the row of its question, with further columns."""

    def write(name, **columns):
        picture(name, len(name))
        return {"image": name, **columns}

    return write


@pytest.fixture
def dicom(put):
    """The same for a DICOM file with the given identifiers."""

    def write(name, patient="", study="", series="", **columns):
        header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        header.PatientID, header.StudyInstanceUID, header.SeriesInstanceUID = patient, study, series
        header.save_as(put(name, b""))
        return {"image": name, **columns}

    return write


LEVELS = {
    0: ["subject", "patient_id", "Patient_ID", "patient", "PatientID", "case_id", "anon_patient_id", "mrn", "pat_nr"],
    1: ["study_id", "StudyInstanceUID", "accession_number", "exam_id"],
    2: ["volume", "series_uid", "SeriesInstanceUID", "scan_id"],
    None: ["patient_age", "patient_sex", "volume_ml", "case_description", "subject_area", "id"],
}


def test_the_most_general_column_is_the_subject(import_rows, png, salt):
    assert {level: {subject_level(name) for name in names} for level, names in LEVELS.items()} == {
        level: {level} for level in LEVELS
    }
    assert subject_level("Participant ID") == subject_level("Case No.") == 0
    done = import_rows(
        png("a.png", volume="v1", study_id="s1", patient_id="p1"),
        png("b.png", volume="v1", study_id="s1"),
        png("c.png", patient_id="p1", subject="p1", study="chest, two views"),
        png("d.png", patient_id=7, subject=None),
        png("e.png", patient_id="nan", subject=" "),
    )
    assert [sample.subject for sample in done.samples] == ["p1", "s1", "p1", "7", "e"]
    studies = "column 'study_id' (studies, not patients)"
    assert done.report.subjects_from == {"column 'patient_id'": 3, studies: 1, "file names": 1}
    assert done.report.subjects == 4
    assert clusters(done.samples) == [[0, 2], [1], [3], [4]]
    assert done.samples[0].record == {"study_id": "s1", "volume": "v1"}
    assert done.samples[2].record["study"] == "chest, two views"
    assert not salt.exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"patient_id": "17", "subject": "p1"}, "columns 'patient_id' ('17') and 'subject' ('p1') both name the subj"),
        ({"patient": ["p1"]}, "column 'patient' must name the subject by text or a number, saw ['p1']"),
        ({"study": "s1"}, "column 'study' may identify patients or describe them"),
        ({"patient_name": "Doe"}, "column 'patient_name' may identify patients"),
    ],
)
def test_columns_that_are_refused(import_rows, png, columns, message):
    with pytest.raises(UserError) as error:
        import_rows(png("a.png"), png("b.png", **columns))
    assert "rows.jsonl, row 2: " in str(error.value)
    assert message in str(error.value)


def test_slices_of_a_series_are_one_subject(import_rows, png, dicom):
    done = import_rows(
        dicom("a.dcm", "ID1", "1.2.1", "1.2.1.1"),
        dicom("b.dcm", "ID1", "1.2.2", "1.2.2.1"),
        dicom("c.dcm", "", "1.2.3", "1.2.3.1"),
        dicom("d.dcm", "", "1.2.3", "1.2.3.2"),
        dicom("e.dcm", series="1.2.4.1"),
        dicom("f.dcm", series="1.2.4.1"),
        dicom("g.dcm"),
        png("h.png"),
        dicom("i.dcm", "ID1", subject="p1"),
    )
    assert clusters(done.samples) == [[0, 1], [2, 3], [4, 5], [6], [7], [8]]
    origins = {"DICOM headers (salted hash)": 6, "file names": 2, "column 'subject'": 1}
    assert (done.report.subjects, done.report.subjects_from) == (6, origins)
    assert [sample.subject for sample in done.samples[6:]] == ["g", "h", "p1"]
    assert done.samples[0].subject.startswith("dicom-")


def test_a_patient_imported_twice_is_one_subject_and_nothing_readable_is_written(import_rows, dicom, put, salt):
    first = import_rows(dicom("a.dcm", "ZZID4711", "1.2.99887766", "1.2.99887766.1"))
    written, subject = first.written(), first.samples[0].subject
    again = import_rows(dicom("b.dcm", "ZZID4711 "))
    assert again.samples[0].subject == subject
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    for content in (written, again.written()):
        assert b"ZZID" not in content
        assert b"99887766" not in content
    zipped = put("a.dcm.gz", gzip.compress((put.root / "a.dcm").read_bytes()))
    assert SubjectHasher().subject_of(zipped) == subject


def test_another_salt_makes_another_subject(import_rows, dicom, tmp_path, monkeypatch):
    row = dicom("a.dcm", "ID1")
    shared = tmp_path / "salt"
    shared.write_text("0123456789abcdef\n")
    subjects = [import_rows(row, salt_file=file).samples[0].subject for file in (None, shared, shared)]
    assert subjects[0] != subjects[1] == subjects[2]
    for content, message in (("short", "has 5 characters; wanted at least"), (None, "cannot be read")):
        shared.write_text(content) if content else shared.unlink()
        with pytest.raises(UserError, match=message):
            import_rows(row, salt_file=shared)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    import_rows(row)
    assert (tmp_path / "home/.config/medvlm-r1/subject-salt").is_file()
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"subject-salt: the salt .* cannot be written .*--salt-file"):
        import_rows(row)


@pytest.mark.parametrize(
    ("patients", "warning"),
    [
        (["ANON"] * 3, "One PatientID covers all DICOM images, from 3 studies, "),
        ([*["ANON"] * 10, "A", "B", "C"], "One PatientID covers 10 of 13 DICOM studies"),
        (["A", "A", "B", "B"], ""),
    ],
)
def test_a_placeholder_for_patients_is_reported(import_rows, dicom, patients, warning):
    rows = [dicom(f"{number}.dcm", patient, f"1.{number}") for number, patient in enumerate(patients)]
    message = import_rows(*rows).report.subject_warning
    assert message.startswith(warning) if warning else message == ""


def test_the_commands_report_the_origin_of_subjects(command, import_rows, png, dicom, put, tmp_path):
    import_rows(*[dicom(f"{number}.dcm", "ANON", f"1.2.{number}") for number in range(2)])
    lines = command("data", "import", "jsonl", put.root / "rows.jsonl", "--out", tmp_path / "cli")[1].splitlines()
    assert lines[1] == "  subjects: 1, from DICOM headers (salted hash)"
    assert lines[2].startswith("    Warning: One PatientID covers all DICOM images, from 2 studies")
    folder = import_rows(*(png(f"{number}.png") for number in range(4))).folder
    lines = command("data", "split", folder, "--out", tmp_path / "parts", "--part", "train=2")[1].splitlines()
    assert lines[-1].startswith("Warning: the subject of 4 questions is only the file name of their image.")
    # A part still records the origin of its subjects.
    assert check_folders([tmp_path / "parts" / "train"]).file_name_subjects == 2


def test_the_check_warns_when_subjects_are_file_names(import_rows, png, tmp_path):
    folder = import_rows(png("a.png"), png("deep/b.png"), png("c.png", subject="p1")).folder
    check = check_folders([folder])
    assert check.file_name_subjects == 2
    assert "Warning: the subject of 2 questions is only the file name" in "\n".join(check_lines(check))
    assert read_info(folder)["subjects"] == {"file names": 2, "column 'subject'": 1}
    # A pseudonym that is also the name of the file counts as a pseudonym.
    given = import_rows(png("p2.png", subject="p2"), out=tmp_path / "given").folder
    assert check_folders([given]).file_name_subjects == 0
    assert "share patients is not known" in check_folders([folder, given]).verdict


def test_subjects_of_unlike_origins_are_reported(import_rows, dicom, tmp_path):
    (tmp_path / "salt").write_text("0123456789abcdef")
    import_rows(dicom("a.dcm", "ID1", patient_id="ID1"), out=tmp_path / "column")
    import_rows(dicom("b.dcm", "ID1"), out=tmp_path / "header")
    import_rows(dicom("c.dcm", "ID2"), out=tmp_path / "again")
    import_rows(dicom("d.dcm", "ID1"), out=tmp_path / "salted", salt_file=tmp_path / "salt")

    def warning_of(*names):
        check = check_folders([tmp_path / name for name in names])
        assert not check.unlike_subjects or f"Warning: {check.unlike_subjects}" in check_lines(check)
        return check.unlike_subjects

    assert warning_of("header", "again") == warning_of("column") == ""
    assert warning_of("column", "header") == (
        "the subjects of column are from column 'patient_id', those of header are from DICOM headers (salted hash). "
        "They cannot be compared: import both in one way."
    )
    assert "header and salted are hashed with different salts" in warning_of("header", "salted")
