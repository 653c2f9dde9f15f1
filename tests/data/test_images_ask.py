"""`medvlm-r1 ask` shows one frame or slice and says what was done to it; the model is a stand-in."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest

from medvlm_r1.cli import main as cli
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.models.generate import Generation

QUESTION = ("--question", "Which organ?", "--option", "liver", "--option", "knee")


@pytest.fixture
def ask(monkeypatch, capsys):
    """Runs the command; returns exit code, output, errors and the sizes of the pictures the model was given."""
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

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medvlm-r1", "ask", "a-model", *QUESTION, *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr(), given)

    return run


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)), path)
    return path


def test_the_slice_is_named_and_the_note_printed(ask, volume):
    code, out, _, given = ask("--image", volume, "--plane", "coronal", "--slice", 2, "--window", "-600/1500")
    assert code == 0
    assert given == [(3, 5)]
    assert "Image:      NIfTI, 3 x 5; coronal slice 2 of 4 (from 0); window given -600/1500 (given)" in out
    assert "Answer:     A) liver" in out
    assert "liver 75.0 %, knee 25.0 %" in out
    assert RESEARCH_USE in out


def test_json_holds_the_note(ask, volume):
    code, out, _, _ = ask("--image", volume, "--plane", "axial", "--slice", 0, "--json")
    assert code == 0
    image = json.loads(out)["image"]
    assert (image["format"], image["plane"], image["slices"], image["burned_in"]) == ("NIfTI", "axial", 5, "unknown")


def test_what_must_be_chosen_is_told_before_a_model_is_loaded(ask, volume):
    code, _, err, given = ask("--image", volume)
    assert code == 1
    assert "choose a plane and a slice" in err
    assert ask("--image", volume, "--plane", "oblique", "--slice", 0)[0] == 2
    assert ask("--image", volume, "--plane", "axial", "--slice", 0, "--window", "liver")[0] == 2
    assert given == []
