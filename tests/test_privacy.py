"""A DICOM file full of names goes through the commands: none of them is in a file written or on the screen."""

import json
from pathlib import Path

import pydicom
import pytest

MARKERS = {
    "PatientName": "ZZDOE^PLANTED",
    "PatientID": "ZZID4711",
    "OtherPatientIDs": "ZZOTHER12",
    "PatientBirthDate": "19010203",
    "StudyDate": "19040506",
    "SeriesDate": "19040507",
    "AcquisitionDateTime": "19040508101112",
    "ContentTime": "030405.678901",
    "StudyInstanceUID": "1.2.3.99887766.1",
    "SeriesInstanceUID": "1.2.3.99887766.2",
    "SOPInstanceUID": "1.2.3.99887766.3",
    "FrameOfReferenceUID": "1.2.3.99887766.4",
    "InstitutionName": "ZZHOSPITAL",
    "InstitutionAddress": "ZZSTREET 1",
    "ReferringPhysicianName": "ZZREFERRER",
    "OperatorsName": "ZZOPERATOR",
    "AccessionNumber": "ZZACC99",
    "StudyID": "ZZSTUDY7",
    "StationName": "ZZSTATION",
    "DeviceSerialNumber": "ZZSERIAL5",
    "StudyDescription": "ZZSTUDYTEXT",
    "SeriesDescription": "ZZSERIESTEXT",
    "PatientComments": "ZZCOMMENT",
    "ImageComments": "ZZIMAGETEXT",
    "BodyPartExamined": "ZZBODYPART",
    "WindowCenterWidthExplanation": "ZZWINDOW",
}
PRIVATE = "ZZPRIVATE"
QUESTION = ("--question", "Which region?", "--option", "chest", "--option", "head")
SHORT = ("--max-new-tokens", 4)


def planted(path, **elements):
    """A slice of pydicom's sample CT with a marker in every element that may tell who the patient is."""
    ds = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm")
    for keyword, marker in (MARKERS | elements).items():
        setattr(ds, keyword, marker)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.private_block(0x0099, "ZZCREATOR", create=True).add_new(1, "LO", PRIVATE)
    ds.save_as(path, enforce_file_format=True)
    return path


def markers_in(data):
    """The markers in some bytes, as text in any of three encodings, names in parts too."""
    words = {piece for marker in MARKERS.values() for piece in marker.split("^")} | {PRIVATE, "99887766"}
    encodings = ("utf-8", "utf-16-le", "utf-16-be")
    return sorted({word for word in words for encoding in encodings if word.encode(encoding) in data})


@pytest.fixture
def scans(tmp_path):
    """A folder of three scans, one of them cut short, and of the questions about them."""
    folder = tmp_path / "source"
    folder.mkdir()
    names = ["a.dcm", "b.png", "c.dcm"]
    for name in names:
        planted(folder / name, InstanceNumber=str(ord(name[0])))
    rows = [
        {"image": name, "question": f"Which region is in {name[0]}?", "options": ["chest", "head"], "answer": "chest"}
        for name in names
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row | {"modality": "CT"}) + "\n" for row in rows))
    sound = (folder / "a.dcm").read_bytes()
    (folder / "short.dcm").write_bytes(sound[: len(sound) // 2])
    wrong = pydicom.dcmread(folder / "a.dcm")
    wrong.Columns = 900
    wrong.save_as(folder / "wrong.dcm")
    return folder


def test_the_markers_are_planted(scans):
    """Else nothing would be proved below."""
    assert set(markers_in((scans / "a.dcm").read_bytes())) >= {"ZZDOE", "19010203", "99887766", PRIVATE}


def test_no_patient_in_any_file_or_on_the_screen(
    tmp_path, scans, tiny_policy_dir, monkeypatch, command, write_config, tried
):
    monkeypatch.chdir(tmp_path)
    config = write_config("sft", data={"train": "data"}, out="trained", trainer={"max_steps": 1})
    model = tiny_policy_dir
    wanted = [
        (0, ("data", "import", "jsonl", scans / "rows.jsonl", "--out", "data")),
        (0, ("data", "import", "jsonl", scans / "rows.jsonl", "--out", "data-again", "--json")),
        (0, ("data", "check", "data", "--out", "check.html")),
        (0, ("data", "check", "data", "--json")),
        (0, ("audit", "data", "data", "--out", "audit.html")),
        (0, ("ask", model, "--image", scans / "a.dcm", *QUESTION, *SHORT)),
        (0, ("ask", model, "--image", scans / "b.png", *QUESTION, *SHORT, "--json")),
        (1, ("ask", model, "--image", scans / "short.dcm", *QUESTION)),
        (1, ("ask", model, "--image", scans / "wrong.dcm", *QUESTION)),
        (0, ("eval", model, "--data", "data", "--out", "evaluated", *SHORT)),
        (0, ("audit", "model", model, "--data", "data", "--out", "audited", "--limit", 2, *SHORT)),
        (0, ("train", "sft", "--config", config)),
        (0, ("report", "evaluated", "trained", "--out", "report.html")),
        (0, ("export", "trained", "--out", "published")),
    ]
    for code, words in wanted:
        exit_code, out, err = command(*words)
        assert (exit_code, markers_in((out + err).encode())) == (code, []), f"{words}\n{out}\n{err}"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and scans not in path.parents]
    assert len(written) > 40
    leaks = {str(path.relative_to(tmp_path)): markers_in(path.read_bytes()) for path in written}
    assert {name: words for name, words in leaks.items() if words} == {}
    tried("no-patient", len(wanted))
