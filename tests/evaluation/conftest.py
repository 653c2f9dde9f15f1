"""A small data folder that a test may change."""

import pytest
from PIL import Image

from medvlm_r1.data.folder import write_folder
from scripted import make_samples


@pytest.fixture
def samples_dir(tmp_path):
    """A data folder of the six scripted questions, each with its own image."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    samples = make_samples()
    for i, sample in enumerate(samples):
        Image.new("RGB", (12, 10), (40 * i, 90, 160)).save(folder / sample.images[0])
    write_folder(folder, samples, info={"name": "six", "source": "made by the tests", "license": "CC0-1.0"})
    return folder
