"""Evaluation folders with the answers a test wants, on a data folder of four questions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.policy.generate import Generation, GenerationInput, GenerationSettings

RunMaker = Callable[..., Path]


@pytest.fixture
def samples_dir(tmp_path: Path) -> Path:
    """Two MRI, one CT and one OCT question; the right answer is always B."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    samples = []
    for i, modality in enumerate(["MRI", "MRI", "OCT", "CT"]):
        Image.new("RGB", (20 + i, 16), (200, 200, 200) if i else (200, 10, 10)).save(folder / f"images/{i}.png")
        samples.append(
            Sample(
                id=f"q{i}",
                images=(f"images/{i}.png",),
                question=f"Question {i}?",
                options=("liver", "kidney"),
                answer="kidney",
                modality=modality,
                question_type="Lesion Grading" if i < 2 else "",
            )
        )
    write_folder(folder, samples, info={})
    return folder


@pytest.fixture
def make_run(samples_dir: Path, tmp_path: Path) -> RunMaker:
    """A function that evaluates with given texts, one per question, and returns the run folder."""

    def make(name: str, texts: Sequence[str], **arguments: Any) -> Path:
        class Generator:
            def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
                return [Generation(text=text, n_tokens=9, truncated=text.endswith("...")) for text in texts]

        evaluate(
            f"models/{name}", arguments.pop("data", samples_dir), tmp_path / name, generator=Generator(), **arguments
        )
        return tmp_path / name

    return make


@pytest.fixture
def make_training(tmp_path: Path) -> RunMaker:
    """A function that writes a training folder with given rows of metrics."""

    def make(name: str, rows: Sequence[dict[str, Any]]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make
