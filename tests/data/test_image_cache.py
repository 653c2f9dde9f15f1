"""Images that have not changed are decoded and hashed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.data import folder_hash, image_facts, load_image, read_folder
from medvlm_r1.data.image_facts import image_sizes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the images that were decoded; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []
    monkeypatch.setattr(image_facts, "load_image", lambda file: names.append(file.name) or load_image(file))
    return names


def test_unchanged_images_are_decoded_and_hashed_once(data_dir: Path, tmp_path: Path, decoded: list[str]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(data_dir, folder)
    samples = read_folder(folder)
    assert image_sizes(folder, samples)["images/3.png"] == (40, 30)
    assert decoded == [f"{index}.png" for index in range(8)]
    first = folder_hash(folder)
    assert set(image_sizes(folder, samples).values()) == {(40, 30)}
    assert len(decoded) == 8
    # Another file under the name, of the same length and other content, is another image.
    content = bytearray((folder / "images/3.png").read_bytes())
    content[-20] ^= 1
    (folder / "images/3.png").write_bytes(content)
    os.utime(folder / "images/3.png", ns=(0, 0))
    assert image_sizes(folder, samples)["images/3.png"] is None
    assert decoded[8:] == ["3.png"]
    assert folder_hash(folder) != first


def test_images_of_other_samples_are_hashed_only(
    data_dir: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = read_folder(data_dir)
    image_sizes(data_dir, samples[4:])
    known = folder_hash(data_dir)
    assert decoded == [f"{index}.png" for index in range(4, 8)]
    image_sizes(data_dir, samples)
    assert decoded[4:] == [f"{index}.png" for index in range(4)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert folder_hash(data_dir) == known


def test_a_damaged_or_read_only_cache_costs_time_only(data_dir: Path, tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        image_sizes(data_dir, read_folder(data_dir))
    assert len(decoded) == 16


def test_many_images_are_examined_in_workers_with_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoded: list[str]
) -> None:
    (tmp_path / "images").mkdir()
    names = [f"images/{index}.png" for index in range(70)]
    for index, name in enumerate(names):
        Image.new("L", (28, 28), index).save(tmp_path / name)
    facts = image_facts.image_facts(tmp_path, names, decode=True)
    assert {tuple(entry["size"]) for entry in facts.values()} == {(28, 28)}
    assert len({entry["hash"] for entry in facts.values()}) == 70
    assert decoded == []
    assert "Images checked" in capsys.readouterr().err
