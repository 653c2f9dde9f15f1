"""Examples of the reader page: PhantomVQA images and pydicom's sample files. Nothing is downloaded."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from medvlm_r1.errors import UserError


class Example(NamedTuple):
    """Content and name of an image file, and a question about it."""

    data: bytes
    name: str
    question: str
    options: tuple[str, ...]


def _phantom(modality: str) -> Example:
    import numpy as np
    from PIL import Image

    from medvlm_r1.phantom.questions import ask
    from medvlm_r1.phantom.scene import render

    # This subject is in no benchmark split: their seeds begin with 1, 2 or 3.
    seed = (0, len(modality))
    question = ask(modality, seed, np.random.default_rng(seed))
    stream = io.BytesIO()
    Image.fromarray(render(question.scene)).save(stream, "PNG")
    return Example(stream.getvalue(), f"phantom-{modality.lower()}.png", question.text, question.options)


def _pydicom(file: str, question: str, options: tuple[str, ...]) -> Example:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(file, download=False)
    if path is None:
        raise UserError(f"{file} is not among the installed files of pydicom; choose another example.")
    return Example(Path(str(path)).read_bytes(), file, question, options)


_MODALITY = ("Which imaging modality is this?", ("MRI", "CT", "X-ray", "ultrasound"))
_BODY_PART = ("Which part of the body is shown in this image?", ("head", "chest", "abdomen", "knee"))
EXAMPLES: dict[str, Callable[[], Example]] = {
    "Phantom MRI": partial(_phantom, "MRI"),
    "Phantom CT": partial(_phantom, "CT"),
    "Phantom X-ray": partial(_phantom, "X-ray"),
    "CT (DICOM)": partial(_pydicom, "CT_small.dcm", *_MODALITY),
    "MRI (DICOM)": partial(_pydicom, "MR_small.dcm", *_BODY_PART),
    "Ultrasound, 30 frames": partial(_pydicom, "examples_ybr_color.dcm", *_MODALITY),
}
"""Functions that load the examples, by the label of their button. A missing sample file is a `UserError`."""
