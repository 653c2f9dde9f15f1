"""Subjects of imported samples: patient columns, salted hashes of DICOM identifiers, file names."""

import gzip
import json
import os
import stat
from pathlib import Path

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


@pytest.mark.parametrize(
    ("column", "level"),
    [
        *(
            (name, 0)
            for name in ("subject", "patient_id", "Patient_ID", "patient", "PatientID", "subject_id", "case_id")
        ),
        *((name, 0) for name in ("Participant ID", "patientId", "anon_patient_id", "mrn", "pid", "Case No.", "pat_nr")),
        *((name, 1) for name in ("study_id", "StudyInstanceUID", "accession_number", "exam_id")),
        *((name, 2) for name in ("volume", "series_uid", "SeriesInstanceUID", "scan_id")),
        *(
            (name, None)
            for name in ("patient_age", "patient_sex", "volume_ml", "case_description", "subject_area", "id")
        ),
    ],
)
def test_patient_columns(column, level):
    assert subject_level(column) == level


@pytest.mark.parametrize("column", ["patient_id", "Patient_ID", "patient", "PatientID", "subject_id", "case_id"])
def test_a_patient_column_is_the_subject(source, column):
    rows = [{**source.png(f"{number}.png"), column: patient} for number, patient in enumerate(["p1", "p2", "p1", 7])]
    report, samples = source.run(*rows)
    assert [sample.subject for sample in samples] == ["p1", "p2", "p1", "7"]
    assert (report.subjects, report.subjects_from) == (3, {f"column {column!r}": 4})
    assert clusters(samples) == [[0, 2], [1], [3]]
    assert column not in samples[0].record


def test_the_most_general_column_is_the_subject(source):
    row = {**source.png("a.png"), "volume": "v1", "study_id": "s1", "patient_id": "p1"}
    report, [sample] = source.run(row)
    assert (sample.subject, report.subjects_from) == ("p1", {"column 'patient_id'": 1})
    assert (sample.record["study_id"], sample.record["volume"]) == ("s1", "v1")
    del row["patient_id"]
    report, [sample] = source.run(row)
    assert (sample.subject, report.subjects_from) == ("s1", {"column 'study_id' (studies, not patients)": 1})


def test_two_columns_that_agree_or_leave_one_empty(source):
    rows = [{**source.png("a.png"), "patient_id": "p1", "subject": "p1"}]
    rows.append({**source.png("b.png"), "patient_id": "p2", "subject": None})
    rows.append({**source.png("c.png"), "patient_id": "nan", "subject": " "})
    report, samples = source.run(*rows)
    assert [sample.subject for sample in samples] == ["p1", "p2", "c"]
    assert report.subjects_from == {"column 'patient_id'": 2, "file names": 1}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"patient_id": "17", "subject": "p1"},
            "columns 'patient_id' ('17') and 'subject' ('p1') both name the subject",
        ),
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


def test_a_describing_column_beside_a_patient_is_kept(source):
    _, [sample] = source.run({**source.png("a.png"), "patient_id": "p1", "study": "chest, two views"})
    assert (sample.subject, sample.record) == ("p1", {"study": "chest, two views"})


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
    row = source.dicom(
        "a.dcm", PatientID="ZZID4711", StudyInstanceUID="1.2.99887766", SeriesInstanceUID="1.2.99887766.1"
    )
    _, [first] = source.run(row)
    _, [second] = source.run(source.dicom("b.dcm", PatientID="ZZID4711 "), out="again")
    assert first.subject == second.subject
    assert stat.S_IMODE(source.salt.stat().st_mode) == 0o600
    for folder in ("out", "again"):
        written = b"".join(path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file())
        assert b"ZZID" not in written
        assert b"99887766" not in written


def test_a_zipped_file_has_the_subject_of_what_it_holds(source):
    source.dicom("a.dcm", PatientID="ID1")
    zipped = source.root / "a.dcm.gz"
    zipped.write_bytes(gzip.compress((source.root / "a.dcm").read_bytes()))
    hasher = SubjectHasher()
    assert hasher.subject_of(zipped) == hasher.subject_of(source.root / "a.dcm") != ""


def test_another_salt_makes_another_subject(source, tmp_path):
    row = source.dicom("a.dcm", PatientID="ID1")
    shared = tmp_path / "salt"
    shared.write_text("0123456789abcdef\n")
    _, [own] = source.run(row)
    subjects = {source.run(row, out=out, salt_file=shared)[1][0].subject for out in ("b", "c")}
    assert len(subjects) == 1
    assert own.subject not in subjects


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("short", "has 5 characters; wanted at least")]
)
def test_a_salt_that_cannot_be_used(source, tmp_path, content, message):
    file = tmp_path / "salt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        source.run(source.dicom("a.dcm", PatientID="ID1"), salt_file=file)


def test_no_salt_is_made_without_dicom(source):
    source.run(source.png("a.png"))
    assert not source.salt.exists()


def test_a_place_for_the_salt_that_cannot_be_written(source, tmp_path):
    (tmp_path / "config").write_text("a file")
    with pytest.raises(UserError, match=r"subject-salt: the salt .* cannot be written .*--salt-file"):
        source.run(source.dicom("a.dcm", PatientID="ID1"))


@pytest.mark.parametrize("value", ["ANON", "0"])
def test_one_patient_id_for_all_studies_is_said(source, value):
    rows = [source.dicom(f"{n}.dcm", PatientID=value, StudyInstanceUID=f"1.2.{n}") for n in range(3)]
    report, _ = source.run(*rows)
    assert report.subjects == 1
    assert report.subject_warning.startswith("One PatientID covers all DICOM images, from 3 studies, ")
    assert "ANON" not in report.subject_warning.split("If it is")[0]


def test_a_placeholder_among_other_patients_is_said(source):
    rows = [source.dicom(f"{n}.dcm", PatientID="ANON", StudyInstanceUID=f"1.2.{n}") for n in range(10)]
    rows += [source.dicom(f"p{n}.dcm", PatientID=f"ID{n}", StudyInstanceUID=f"1.3.{n}") for n in range(3)]
    assert source.run(*rows)[0].subject_warning.startswith("One PatientID covers 10 of 13 DICOM studies")


def test_real_patients_are_no_placeholder(source):
    rows = [source.dicom(f"{n}.dcm", PatientID=f"ID{n // 2}", StudyInstanceUID=f"1.2.{n}") for n in range(6)]
    assert source.run(*rows)[0].subject_warning == ""
    one_study = [source.dicom(f"s{n}.dcm", PatientID="ID1", StudyInstanceUID="1.2") for n in range(3)]
    assert source.run(*one_study, out="again")[0].subject_warning == ""


def test_the_command_says_where_subjects_are_from(source, tmp_path):
    source.run(*[source.dicom(f"{n}.dcm", PatientID="ANON", StudyInstanceUID=f"1.2.{n}") for n in range(2)])
    arguments = ["data", "import", "jsonl", str(source.root / "rows.jsonl"), "--out", str(tmp_path / "cli")]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[1] == "  subjects: 1, from DICOM headers (salted hash)"
    assert lines[2].startswith("    Warning: One PatientID covers all DICOM images, from 2 studies")
    record = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (record["subjects"], record["subjects_from"]) == (1, {"DICOM headers (salted hash)": 2})


def test_the_command_says_it_for_phantom(tmp_path):
    arguments = ["data", "import", "phantom", "--out", str(tmp_path / "p"), "--n", "2", "--modality", "CT"]
    assert "  subjects: 2, from PhantomVQA" in CliRunner().invoke(app, arguments).stdout.splitlines()


def test_the_check_warns_when_subjects_are_file_names(source, tmp_path):
    source.run(source.png("a.png"), source.png("deep/b.png"), {**source.png("c.png"), "subject": "p1"})
    check = check_folders([tmp_path / "out"])
    assert check.file_name_subjects == 2
    assert any(
        line.startswith("Warning: the subject of 2 questions is only the file name") for line in check_lines(check)
    )
    assert read_info(tmp_path / "out")["subjects"] == {"file names": 2, "column 'subject'": 1}
    # A pseudonym that is also the name of the file was given all the same.
    source.run({**source.png("p2.png"), "subject": "p2"}, out="given")
    assert check_folders([tmp_path / "given"]).file_name_subjects == 0
    assert "share patients is not known" in check_folders([tmp_path / "out", tmp_path / "given"]).verdict


def test_the_split_warns_when_subjects_are_file_names(source, tmp_path):
    source.run(*(source.png(f"{number}.png") for number in range(4)))
    arguments = ["data", "split", str(tmp_path / "out"), "--out", str(tmp_path / "parts"), "--part", "train=2"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert lines[-1].startswith("Warning: the subject of 4 questions is only the file name of their image.")
    # A part still tells where its subjects are from.
    assert check_folders([tmp_path / "parts" / "train"]).file_name_subjects == 2


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
    assert warning_of("header", "salted").startswith(
        "the DICOM subjects of header and salted are hashed with different salts"
    )
    check = check_folders([tmp_path / "column", tmp_path / "header"])
    assert f"Warning: {check.unlike_subjects}" in check_lines(check)


def test_the_salt_is_kept_under_the_home_folder_without_xdg(source, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source.run(source.dicom("a.dcm", PatientID="ID1"))
    assert os.path.isfile(Path(tmp_path / "home/.config/medvlm-r1/subject-salt"))
