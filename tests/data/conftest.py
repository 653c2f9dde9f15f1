"""What several tests of the images and of the data set readers use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str | bytes], Path]:
    """A function that writes a file of the name that the test's module has as `FILE`."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / str(request.module.FILE)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a DICOM file."""

    def save(ds: Dataset, name: str = "x.dcm") -> Path:
        ds.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return save
