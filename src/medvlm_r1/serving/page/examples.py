"""Examples of the reader page: PhantomVQA images and pydicom's sample files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from medvlm_r1.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An image with a question.

    Attributes:
        label: Button label.
        question: The question.
        options: Its options.
        phantom: Modality of the PhantomVQA image; None for a pydicom file.
        file: Name of the pydicom file.
    """

    label: str
    question: str = ""
    options: tuple[str, ...] = ()
    phantom: str | None = None
    file: str = ""

    def load(self) -> LoadedExample:
        """Load the image and its question. Nothing is downloaded.

        Raises:
            UserError: pydicom's sample file is not installed.
        """
        if self.phantom is not None:
            return _draw(self.phantom)
        from pydicom.data import get_testdata_file

        path = get_testdata_file(self.file, download=False)
        if path is None:
            raise UserError(f"{self.file} is not among the installed files of pydicom; choose another example.")
        data = Path(str(path)).read_bytes()
        return LoadedExample(data=data, name=self.file, question=self.question, options=self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedExample:
    """Content and name of a file, and a question about it."""

    data: bytes
    name: str
    question: str
    options: tuple[str, ...]


_MODALITIES = ("MRI", "CT", "X-ray", "ultrasound")
EXAMPLES = (
    Example(label="Phantom MRI", phantom="MRI"),
    Example(label="Phantom CT", phantom="CT"),
    Example(label="Phantom X-ray", phantom="X-ray"),
    Example(label="CT (DICOM)", file="CT_small.dcm", question="Which imaging modality is this?", options=_MODALITIES),
    Example(
        label="MRI (DICOM)",
        file="MR_small.dcm",
        question="Which part of the body is shown in this image?",
        options=("head", "chest", "abdomen", "knee"),
    ),
    Example(
        label="Ultrasound, 30 frames",
        file="examples_ybr_color.dcm",
        question="Which imaging modality is this?",
        options=_MODALITIES,
    ),
)


def _draw(modality: str) -> LoadedExample:
    import numpy as np
    from PIL import Image

    from medvlm_r1.phantom.questions import ask
    from medvlm_r1.phantom.scene import render

    # A subject outside all benchmark splits, whose seeds begin with 1 to 3.
    drawn = ask(modality, (0, len(modality)), np.random.default_rng((0, len(modality))))
    stream = io.BytesIO()
    Image.fromarray(render(drawn.scene)).save(stream, "PNG")
    return LoadedExample(
        data=stream.getvalue(), name=f"phantom-{modality.lower()}.png", question=drawn.text, options=drawn.options
    )
