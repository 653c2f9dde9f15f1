"""Training with rewards for boxes: the columns, what is refused, and a run on items with and without box labels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Box
from medvlm_r1.models.load import image_fit
from medvlm_r1.recipes import recipe
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dataset import as_dataset, build_dataset

EMPTY = {"images": [{"findings": []}]}
REWARDS = [{"name": name} for name in ("format_box", "box_iou", "box_point")]


@pytest.fixture
def boxed(data_dir: Path, tmp_path: Path) -> Path:
    """The eight questions (images of 40 x 30 pixels): one with a box, one without a finding, six unknown."""
    folder = tmp_path / "boxed"
    shutil.copytree(data_dir, folder)
    first, second, *others = read_folder(folder)
    box = Box(label="mass", image=0, x1=10, y1=15, x2=20, y2=30)
    write_folder(folder, [replace(first, boxes=(box,)), replace(second, truth=EMPTY), *others], info={})
    return folder


def test_the_columns(boxed: Path, tiny_policy_dir: Path) -> None:
    rows = as_dataset(str(boxed), template="medvlm-r1-box")
    assert rows["boxes"][:3] == [[[0.25, 0.5, 0.5, 1.0]], [], None]
    assert rows["shown_size"] == [None] * 8
    assert as_dataset(str(boxed))["boxes"] == [None] * 8
    processor = image_fit(str(tiny_policy_dir)).processor
    template = "medvlm-r1-box-pixels"
    [row] = build_dataset(str(boxed), read_folder(boxed)[:1], template=template, processor=processor)
    grid = processor(images=row["images"], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert row["shown_size"] == [grid[2] * processor.patch_size, grid[1] * processor.patch_size]


@pytest.mark.parametrize("template", ["medvlm-r1-box", "medvlm-r1-box-pixels"])
def test_items_without_a_label_are_left_out_of_these_rewards(
    template: str, boxed: Path, tmp_path: Path, write_config: Any, command: Any
) -> None:
    arguments = {"template": template, "rewards": REWARDS, "data": {"train": str(boxed)}, "trainer": {"max_steps": 4}}
    code, _, error = command("train", "grpo", "--config", write_config(**arguments))
    assert code == 0, error
    rows = [json.loads(line) for line in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
    assert {row["sample_id"] for row in rows} == {f"q{i}" for i in range(8)}
    for row in rows:
        known = {name for name in ("box_iou", "box_point") if row["rewards"][name] is not None}
        assert known == ({"box_iou", "box_point"} if row["sample_id"] in ("q0", "q1") else set())
        assert row["rewards"]["format_box"] == 0
    # The tiny policy writes no boxes.
    assert {row["rewards"]["box_iou"] for row in rows if row["sample_id"] in ("q0", "q1")} == {0, 1}


def test_what_is_refused(data_dir: Path, boxed: Path, write_config: Any, command: Any) -> None:
    first, *others = read_folder(boxed)
    wide = replace(first, boxes=(replace(first.boxes[0], x2=41),))
    for changes, words in (
        ({"rewards": REWARDS}, "the reward 'box_iou' needs boxes, but the template 'medvlm-r1' does not ask for them"),
        ({"rewards": REWARDS, "template": "medvlm-r1-box"}, "no training sample with one image has boxes"),
        ({"template": "medvlm-r1-box", "data": {"train": str(boxed)}}, "id 'q0': the box of 'mass' is 10, 15, 41, 30"),
    ):
        write_folder(boxed, [wide, *others], info={})
        code, _, error = command("train", "grpo", "--config", write_config(**changes))
        assert (code != 0, words in " ".join(error.split()), "Traceback" in error) == (True, True, False), error


def test_the_recipe(tmp_path: Path, boxed: Path, command: Any) -> None:
    plain, own = (load_config(recipe(name)).model_dump() for name in ("phantom.yaml", "phantom-box.yaml"))
    assert {key for key in plain if plain[key] != own[key]} == {"out", "template", "rewards", "trainer"}
    assert [reward["name"] for reward in own["rewards"]] == ["accuracy_paper", "format_box", "box_iou"]
    arguments = [f"data.train={boxed}", f"out={tmp_path / 'run'}", "--dry-run", "--json"]
    few = ["trainer.per_device_train_batch_size=8"]
    code, out, error = command("train", "grpo", "--config", recipe("phantom-box.yaml"), *arguments, *few)
    assert code == 0, error
    assert json.loads(out)["prompts"]["count"] == 4
