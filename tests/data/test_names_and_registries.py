import pytest

from medvlm_r1.cli.data import OWN, PUBLIC
from medvlm_r1.data.importing.registry import READERS, find_reader
from medvlm_r1.data.modality import MODALITIES, modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError


def test_did_you_mean():
    for word, message in {"huatu": "did you mean 'huatuo'?", "HUATUO": "did you mean 'huatuo'?"}.items():
        assert did_you_mean(word, ["slake", "huatuo", "slake"]) == message
    assert did_you_mean("xyz", ["slake", "huatuo"]) == "known: 'huatuo', 'slake'"
    assert did_you_mean("x", []) == "known: none"


def test_modality_spellings():
    spellings = {name: (name,) for name in MODALITIES} | {
        "MRI": ("MR (Mag-netic Resonance Imaging)", "MR (Magnetic Resonance Imaging)"),
        "CT": ("CT(Computed Tomography)", "CT (Computed Tomography)"),
        "X-ray": ("X-Ray", "x ray", "X_Ray", "DX"),
        "OCT": ("OCT (Optical Coherence Tomography", "Optical Coherence Tomography"),
        "Fundus": ("Fundus Photography",),
        "Microscopy": ("Microscopy Images",),
        None: ("MRT", ""),
    }
    assert {name: {modality_name(text) for text in texts} for name, texts in spellings.items()} == {
        name: {name} for name in spellings
    }


def test_reader_registry():
    assert set(READERS) == {*PUBLIC, *OWN}
    assert find_reader("huatuo") is READERS["huatuo"]
    with pytest.raises(UsageError, match=r"unknown data format 'huatou'; did you mean 'huatuo'\?"):
        find_reader("huatou")
