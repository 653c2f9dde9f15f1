"""A greedy answer is the same in Python and on the page, for every shape of question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medvlm_r1.report.case import CaseReply
from medvlm_r1.serving.medvlm import MedVLM, Question
from medvlm_r1.serving.page.case import ask, case_reply, make_question
from medvlm_r1.serving.page.image import AUTOMATIC, OWN, Choice, open_source

PARTS = ("brain", "chest", "abdomen", "knee", "liver", "kidney", "lung", "heart", "spine", "femur")
DICOM = Path(get_testdata_file("CT_small.dcm", download=False))
PART = "Which part of the body is shown?"

SHAPES: dict[str, dict[str, Any]] = {
    **{f"{count} options": {"options": PARTS[:count]} for count in (2, 4, 10)},
    "open question": {"question": "What does the image show?"},
    "two images": {"images": ("png", "dicom"), "options": PARTS[:4]},
    "DICOM with window": {"images": ("dicom",), "options": PARTS[:4], "window": "bone"},
    "DICOM with center and width": {"images": ("dicom",), "options": PARTS[:4], "window": "60/300"},
    "NIfTI slice": {"images": ("nifti",), "options": PARTS[:4], "plane": "coronal", "slice": 5, "window": "full"},
}


@pytest.fixture(scope="module")
def base() -> Iterator[MedVLM]:
    with MedVLM.load("phantom-base", max_new_tokens=64) as model:
        yield model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)).save(folder / "x.png")
    volume = rng.normal(100, 40, (40, 44, 48)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "x.nii.gz")
    return {"png": folder / "x.png", "dicom": DICOM, "nifti": folder / "x.nii.gz"}


@pytest.mark.parametrize("shape", SHAPES)
def test_python_stream_and_page_give_one_answer(base: MedVLM, files: dict[str, Path], shape: str) -> None:
    wanted = dict(SHAPES[shape])
    images = [files[kind] for kind in wanted.pop("images", ("png",))]
    question, options = wanted.pop("question", PART), wanted.pop("options", ())
    expected = base.ask(images, question, options, **wanted)
    assert expected.text
    assert (expected.confidence is None) == (not options or "<answer>" not in expected.text)
    with base.stream(Question(image=images, question=question, options=options, **wanted)) as stream:
        pieces = list(stream)
    assert "".join(pieces) == expected.text
    assert len(pieces) > 2
    assert stream.answer == expected
    # The page shows one image.
    if len(images) == 1:
        reply = on_page(base, images[0], question, options, **wanted)
        assert reply == case_reply(expected, options)


def on_page(
    base: MedVLM,
    image: Path,
    question: str,
    options: tuple[str, ...],
    *,
    window: str = AUTOMATIC,
    plane: str | None = None,
    slice: int = 0,
) -> CaseReply:
    source, _ = open_source(image.read_bytes(), image.name)
    center, _, width = window.partition("/")
    own = {"window": OWN, "center": float(center), "width": float(width)} if width else {"window": window}
    choice = Choice(**{"plane": plane, "slice": slice, "frame": 0, "center": 0, "width": 0} | own)
    lettered = "\n".join(f"{letter}) {option}" for letter, option in zip("ABCDEFGHIJ", options, strict=False))
    *_, last = ask(base, make_question(source, choice, question, lettered))
    return last.case.reply
