"""Subjects of imported samples: patient columns, salted hashes of DICOM identifiers, file names."""

import gzip
import json
import stat

import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from medvlm_r1.cli.main import app
from medvlm_r1.data import find_reader, read_folder
from medvlm_r1.data.check import check_folders
from medvlm_r1.data.check.findings import check_lines
from medvlm_r1.data.folder import read_info
from medvlm_r1.data.split import clusters
from medvlm_r1.data.subjects import SubjectHasher, subject_level
from medvlm_r1.errors import UserError


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder, and functions that write DICOM files and rows into it and import them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    class Source:
        root = tmp_path / "source"
        salt = tmp_path / "config" / "medvlm-r1" / "subject-salt"

        def dicom(self, name, **elements):
            header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
            for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
                setattr(header, keyword, elements.get(keyword, ""))
            header.save_as(self.root / name)
            return {"image": name}

        def png(self, name):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (5, 4), len(name)).save(self.root / name)
            return {"image": name}

        def run(self, *rows, out="out", **arguments):
            full = [{"question": "q?", "options": ["x", "y"], "answer": "x", **row} for row in rows]
            path = self.root / "rows.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in full), encoding="utf-8")
            report = find_reader("jsonl")(path, out=tmp_path / out, **arguments)
            return report, read_folder(tmp_path / out)

    Source.root.mkdir()
    return Source()


LEVELS = {
    0: ["subject", "patient_id", "Patient_ID", "patient", "PatientID", "case_id", "anon_patient_id", "mrn", "pat_nr"],
    1: ["study_id", "StudyInstanceUID", "accession_number", "exam_id"],
    2: ["volume", "series_uid", "SeriesInstanceUID", "scan_id"],
    None: ["patient_age", "patient_sex", "volume_ml", "case_description", "subject_area", "id"],
}


def test_patient_columns():
    assert {level: [subject_level(name) for name in names] for level, names in LEVELS.items()} == {
        level: [level] * len(names) for level, names in LEVELS.items()
    }
    assert subject_level("Participant ID") == subject_level("Case No.") == 0


def test_the_most_general_column_is_the_subject(source):
    rows = [
        {**source.png("a.png"), "volume": "v1", "study_id": "s1", "patient_id": "p1"},
        {**source.png("b.png"), "volume": "v1", "study_id": "s1"},
        {**source.png("c.png"), "patient_id": "p1", "subject": "p1", "study": "chest, two views"},
        {**source.png("d.png"), "patient_id": 7, "subject": None},
        {**source.png("e.png"), "patient_id": "nan", "subject": " "},
    ]
    report, samples = source.run(*rows)
    assert [sample.subject for sample in samples] == ["p1", "s1", "p1", "7", "e"]
    assert report.subjects == 4
    assert report.subjects_from == {
        "column 'patient_id'": 3,
        "column 'study_id' (studies, not patients)": 1,
        "file names": 1,
    }
    assert clusters(samples) == [[0, 2], [1], [3], [4]]
    assert samples[0].record == {"study_id": "s1", "volume": "v1"}
    assert samples[2].record["study"] == "chest, two views"
    assert not source.salt.exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"patient_id": "17", "subject": "p1"}, "columns 'patient_id' ('17') and 'subject' ('p1') both name the subj"),
        ({"patient": ["p1"]}, "column 'patient' must name the subject by text or a number, saw ['p1']"),
        ({"study": "s1"}, "column 'study' may identify patients or describe them"),
        ({"patient_name": "Doe"}, "column 'patient_name' may identify patients"),
    ],
)
def test_columns_that_are_refused(source, columns, message):
    with pytest.raises(UserError) as error:
        source.run(source.png("a.png"), {**source.png("b.png"), **columns})
    assert "rows.jsonl, row 2: " in str(error.value)
    assert message in str(error.value)


def test_slices_of_a_series_are_one_subject(source):
    rows = [
        source.dicom("a.dcm", PatientID="ID1", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1"),
        source.dicom("b.dcm", PatientID="ID1", StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1"),
        source.dicom("c.dcm", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"),
        source.dicom("d.dcm", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.2"),
        source.dicom("e.dcm", SeriesInstanceUID="1.2.4.1"),
        source.dicom("f.dcm", SeriesInstanceUID="1.2.4.1"),
        source.dicom("g.dcm"),
        source.png("h.png"),
        {**source.dicom("i.dcm", PatientID="ID1"), "subject": "p1"},
    ]
    report, samples = source.run(*rows)
    assert clusters(samples) == [[0, 1], [2, 3], [4, 5], [6], [7], [8]]
    assert report.subjects == 6
    assert report.subjects_from == {"DICOM headers (salted hash)": 6, "file names": 2, "column 'subject'": 1}
    assert [sample.subject for sample in samples[6:]] == ["g", "h", "p1"]
    assert samples[0].subject.startswith("dicom-")


def test_a_patient_imported_twice_is_one_subject_and_nothing_readable_is_written(source, tmp_path):
    uids = {"StudyInstanceUID": "1.2.99887766", "SeriesInstanceUID": "1.2.99887766.1"}
    _, [first] = source.run(source.dicom("a.dcm", PatientID="ZZID4711", **uids))
    _, [second] = source.run(source.dicom("b.dcm", PatientID="ZZID4711 "), out="again")
    assert first.subject == second.subject
    assert stat.S_IMODE(source.salt.stat().st_mode) == 0o600
    for folder in ("out", "again"):
        written = b"".join(path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file())
        assert b"ZZID" not in written
        assert b"99887766" not in written
    zipped = source.root / "a.dcm.gz"
    zipped.write_bytes(gzip.compress((source.root / "a.dcm").read_bytes()))
    assert SubjectHasher().subject_of(zipped) == first.subject


def test_another_salt_makes_another_subject(source, tmp_path, monkeypatch):
    row = source.dicom("a.dcm", PatientID="ID1")
    shared = tmp_path / "salt"
    shared.write_text("0123456789abcdef\n")
    _, [own] = source.run(row)
    subjects = {source.run(row, out=out, salt_file=shared)[1][0].subject for out in ("b", "c")}
    assert len(subjects) == 1
    assert own.subject not in subjects
    for content, message in (("short", "has 5 characters; wanted at least"), (None, "cannot be read")):
        shared.write_text(content) if content else shared.unlink()
        with pytest.raises(UserError, match=message):
            source.run(row, salt_file=shared)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source.run(row)
    assert (tmp_path / "home/.config/medvlm-r1/subject-salt").is_file()
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"subject-salt: the salt .* cannot be written .*--salt-file"):
        source.run(row)


@pytest.mark.parametrize(
    ("patients", "warning"),
    [
        (["ANON"] * 3, "One PatientID covers all DICOM images, from 3 studies, "),
        ([*["ANON"] * 10, "A", "B", "C"], "One PatientID covers 10 of 13 DICOM studies"),
        (["A", "A", "B", "B"], ""),
    ],
)
def test_a_placeholder_for_patients_is_reported(source, patients, warning):
    rows = [source.dicom(f"{n}.dcm", PatientID=name, StudyInstanceUID=f"1.{n}") for n, name in enumerate(patients)]
    message = source.run(*rows)[0].subject_warning
    assert message.startswith(warning) if warning else message == ""


def test_the_command_says_where_subjects_are_from(source, tmp_path):
    source.run(*[source.dicom(f"{n}.dcm", PatientID="ANON", StudyInstanceUID=f"1.2.{n}") for n in range(2)])
    arguments = ["data", "import", "jsonl", str(source.root / "rows.jsonl"), "--out", str(tmp_path / "cli")]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[1] == "  subjects: 1, from DICOM headers (salted hash)"
    assert lines[2].startswith("    Warning: One PatientID covers all DICOM images, from 2 studies")
    source.run(*(source.png(f"{number}.png") for number in range(4)))
    arguments = ["data", "split", str(tmp_path / "out"), "--out", str(tmp_path / "parts"), "--part", "train=2"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[-1].startswith("Warning: the subject of 4 questions is only the file name of their image.")
    # A part still tells where its subjects are from.
    assert check_folders([tmp_path / "parts" / "train"]).file_name_subjects == 2


def test_the_check_warns_when_subjects_are_file_names(source, tmp_path):
    source.run(source.png("a.png"), source.png("deep/b.png"), {**source.png("c.png"), "subject": "p1"})
    check = check_folders([tmp_path / "out"])
    assert check.file_name_subjects == 2
    assert "Warning: the subject of 2 questions is only the file name" in "\n".join(check_lines(check))
    assert read_info(tmp_path / "out")["subjects"] == {"file names": 2, "column 'subject'": 1}
    # A pseudonym that is also the name of the file was given all the same.
    source.run({**source.png("p2.png"), "subject": "p2"}, out="given")
    assert check_folders([tmp_path / "given"]).file_name_subjects == 0
    assert "share patients is not known" in check_folders([tmp_path / "out", tmp_path / "given"]).verdict


def test_subjects_of_unlike_origins_are_not_compared_in_silence(source, tmp_path):
    source.run({**source.dicom("a.dcm", PatientID="ID1"), "patient_id": "ID1"}, out="column")
    source.run(source.dicom("b.dcm", PatientID="ID1"), out="header")
    source.run(source.dicom("c.dcm", PatientID="ID2"), out="again")
    (tmp_path / "salt").write_text("0123456789abcdef")
    source.run(source.dicom("d.dcm", PatientID="ID1"), out="salted", salt_file=tmp_path / "salt")

    def warning_of(*names):
        return check_folders([tmp_path / name for name in names]).unlike_subjects

    assert warning_of("header", "again") == warning_of("column") == ""
    assert warning_of("column", "header") == (
        "the subjects of column are from column 'patient_id', those of header are from DICOM headers (salted hash). "
        "They cannot be compared: import both in one way."
    )
    assert "header and salted are hashed with different salts" in warning_of("header", "salted")
    check = check_folders([tmp_path / "column", tmp_path / "header"])
    assert f"Warning: {check.unlike_subjects}" in check_lines(check)
