"""Examples of the reader page: PhantomVQA images and pydicom's sample files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medvlm_r1.errors import UserError


class LoadedExample(NamedTuple):
    """Content and name of an image file, and a question about it."""

    data: bytes
    name: str
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PhantomExample:
    """A PhantomVQA question of one modality."""

    modality: str

    @property
    def label(self) -> str:
        """Label of the example's button."""
        return f"Phantom {self.modality}"

    def load(self) -> LoadedExample:
        """Render the image and generate its question."""
        import numpy as np
        from PIL import Image

        from medvlm_r1.phantom.questions import ask
        from medvlm_r1.phantom.scene import render

        # This subject is in no benchmark split: their seeds begin with 1, 2 or 3.
        seed = (0, len(self.modality))
        question = ask(self.modality, seed, np.random.default_rng(seed))
        stream = io.BytesIO()
        Image.fromarray(render(question.scene)).save(stream, "PNG")
        name = f"phantom-{self.modality.lower()}.png"
        return LoadedExample(stream.getvalue(), name, question.text, question.options)


@dataclass(frozen=True, slots=True)
class FileExample:
    """A question about one of pydicom's sample files."""

    label: str
    file: str
    question: str
    options: tuple[str, ...]

    def load(self) -> LoadedExample:
        """Load the image and its question. Nothing is downloaded.

        Raises:
            UserError: pydicom's sample file is not installed.
        """
        from pydicom.data import get_testdata_file

        path = get_testdata_file(self.file, download=False)
        if path is None:
            raise UserError(f"{self.file} is not among the installed files of pydicom; choose another example.")
        return LoadedExample(Path(str(path)).read_bytes(), self.file, self.question, self.options)


_MODALITY = ("Which imaging modality is this?", ("MRI", "CT", "X-ray", "ultrasound"))
_BODY_PART = ("Which part of the body is shown in this image?", ("head", "chest", "abdomen", "knee"))
EXAMPLES = (
    PhantomExample("MRI"),
    PhantomExample("CT"),
    PhantomExample("X-ray"),
    FileExample("CT (DICOM)", "CT_small.dcm", *_MODALITY),
    FileExample("MRI (DICOM)", "MR_small.dcm", *_BODY_PART),
    FileExample("Ultrasound, 30 frames", "examples_ybr_color.dcm", *_MODALITY),
)
