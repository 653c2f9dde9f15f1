import pytest

from medvlm_r1.data.importing.registry import READERS, find_reader
from medvlm_r1.data.modality import MODALITIES, modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("huatu", "did you mean 'huatuo'?"),
        ("HUATUO", "did you mean 'huatuo'?"),
        ("xyz", "known: 'huatuo', 'slake'"),
        ("", "known: 'huatuo', 'slake'"),
    ],
)
def test_did_you_mean(word, message):
    assert did_you_mean(word, ["slake", "huatuo", "slake"]) == message


def test_did_you_mean_without_names():
    assert did_you_mean("x", []) == "known: none"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MR (Mag-netic Resonance Imaging)", "MRI"),
        ("CT(Computed Tomography)", "CT"),
        ("CT (Computed Tomography)", "CT"),
        ("X-Ray", "X-ray"),
        ("x ray", "X-ray"),
        ("OCT (Optical Coherence Tomography", "OCT"),
        ("ultrasound", "Ultrasound"),
        ("Fundus Photography", "Fundus"),
        ("Microscopy Images", "Microscopy"),
        ("DX", "X-ray"),
        ("unknown", "Unknown"),
        ("MRT", None),
        ("", None),
    ],
)
def test_modality_spellings(spelling, name):
    assert modality_name(spelling) == name


def test_every_name_is_a_spelling_of_itself():
    assert [modality_name(name) for name in MODALITIES] == list(MODALITIES)


def test_reader_registry():
    assert sorted(READERS) == [
        "csv",
        "huatuo",
        "json",
        "jsonl",
        "med-r1",
        "omnimedvqa",
        "parquet",
        "path-vqa",
        "pmc-vqa",
        "slake",
        "tsv",
        "vqa-rad",
    ]
    assert find_reader("huatuo") is READERS["huatuo"]
    with pytest.raises(UsageError, match=r"unknown data format 'huatou'; did you mean 'huatuo'\?"):
        find_reader("huatou")
