"""`medvlm-r1 ask` shows one frame or slice and prints what was done to it; the model is a stand-in."""

import json

import nibabel as nib
import numpy as np
import pytest
from dicom_files import RESCALED, dataset

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.models.generate import Generation


@pytest.fixture
def ask(monkeypatch, command):
    """Runs the command; returns exit code, output, errors and the sizes of the images the model was given."""
    given = []

    class Backend:
        def generate(self, items, settings):
            given.extend(image.size for item in items for image in item.images)
            return [Generation(text="<think>soft</think><answer>A</answer>", n_tokens=5, truncated=False)]

        def letters(self, items, turns, n_options):
            assert turns == ["<think>soft</think><answer>"]
            return [(0.75, 0.25)]

        def close(self):
            pass

    monkeypatch.setattr("medvlm_r1.serving.medvlm.open_backend", lambda model, **_: Backend())
    monkeypatch.setattr("medvlm_r1.models.load.image_fit", lambda model: None)
    question = ("--question", "Which organ?", "--option", "liver", "--option", "knee")
    return lambda *arguments: (*command("ask", "a-model", *question, *arguments), given)


def test_a_slice_is_chosen_and_the_note_printed(ask, tmp_path):
    volume = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), volume)
    # A missing choice is reported before a model is loaded.
    code, _, err, given = ask("--image", volume)
    assert (code, "choose a plane and a slice" in err) == (1, True)
    assert ask("--image", volume, "--plane", "oblique", "--slice", 0)[0] == 2
    assert ask("--image", volume, "--plane", "axial", "--slice", 0, "--window", "liver")[0] == 2
    assert given == []
    code, out, _, given = ask("--image", volume, "--plane", "coronal", "--slice", 2, "--window", "-600/1500")
    assert (code, given) == (0, [(3, 5)])
    assert "Image:      NIfTI, 3 x 5; coronal slice 2 of 4 (from 0); window given -600/1500 (given)" in out
    for line in ("Answer:     A) liver", "liver 75.0 %, knee 25.0 %", RESEARCH_USE):
        assert line in out
    image = json.loads(ask("--image", volume, "--plane", "axial", "--slice", 0, "--json")[1])["image"]
    assert (image["format"], image["plane"], image["slices"], image["burned_in"]) == ("NIfTI", "axial", 5, "unknown")


def test_a_slice_of_a_series_in_a_folder(ask, tmp_path):
    for index in range(6):
        place = {"ImagePositionPatient": [0, 0, 3 * index], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        ids = {"SeriesInstanceUID": f"1.2.{index % 2}", "SOPInstanceUID": f"1.2.3.{index}", "PixelSpacing": [1, 1]}
        ds = dataset(np.full((4, 4), 40 * index, "<i2"), **RESCALED, **place, **ids)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    code, _, err, given = ask("--image", tmp_path, "--plane", "axial", "--slice", 1)
    assert (code, given) == (1, [])
    assert "2 series; choose one (--series N): 0: CT 4 x 4 x 3 (0.dcm); 1: CT 4 x 4 x 3 (1.dcm)" in err
    code, out, _, given = ask("--image", tmp_path, "--plane", "coronal", "--slice", 1, "--series", 1)
    assert (code, given) == (0, [(4, 18)])
    assert "Image:      DICOM series, 4 x 18; coronal slice 1 of 4" in out
