"""Half of each group beside another's image: whose, of which rows, in which runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contrast_rewards
import pytest
from counted import Counted
from PIL import Image
from test_distributed import SCRIPT, TORCHRUN, _run

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.rewards import REGISTRY, asks, resolve_reward
from medvlm_r1.training.config import load_config
from medvlm_r1.training.counterfactual import other_image as contrast
from medvlm_r1.training.counterfactual.other_image import ShowsOthers, check_contrast, contrasted
from medvlm_r1.training.grpo import train_grpo

ASKING = {"name": "contrast_rewards:noting"}
COLOURS = [(40 * index, 90, 160) for index in range(4)]


def picture(shade: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (shade, shade, shade))


def row(*shades: int, modality: str = "MRI") -> dict[str, Any]:
    return {"images": [picture(shade) for shade in shades], "modality": modality}


def shown(rows: list[dict[str, Any]], own: list[bool]) -> list[tuple[bool, list[int]]]:
    return [(row["own_image"], [image.getpixel((0, 0))[0] for image in row["images"]]) for row in contrasted(rows, own)]


def test_the_next_prompts_image_is_shown_and_the_last_takes_the_firsts() -> None:
    a, b, c = row(1), row(2), row(3)
    rows = [a, a, b, b, c, c]
    assert shown(rows, [True, False] * 3) == [
        (True, [1]), (False, [2]), (True, [2]), (False, [3]), (True, [3]), (False, [1]),
    ]  # fmt: skip
    assert [image.getpixel((0, 0))[0] for image in a["images"]] == [1]


def test_another_image_is_another_one_of_the_same_kind() -> None:
    first = row(1)
    others = [row(1), row(5, modality="CT"), row(6, 7), row(9)]
    # Equal pixels, another modality and another number of images are passed over.
    assert shown([first, *others], [False, True, True, True, True])[0] == (False, [9])
    two = [row(6, 7), row(1), row(8, 9)]
    assert shown(two, [False, True, True])[0] == (False, [8, 9])


def test_grey_is_shown_where_there_is_no_other() -> None:
    alone = {"images": [picture(1, (30, 20))], "modality": "MRI"}
    [found] = contrasted([alone], [False])
    assert found["own_image"] is False
    assert found["images"][0].size == (30, 20)
    assert found["images"][0].getcolors() == [(600, (128, 128, 128))]


@pytest.mark.parametrize("images", [[], None])
def test_a_question_without_an_image_is_its_own(images: Any) -> None:
    rows = [{"images": images, "modality": "MRI"}, row(1)]
    found = contrasted(rows, [False, False])
    assert (found[0]["own_image"], found[0]["images"]) == (True, images)
    # And lends none.
    assert found[1]["images"][0].getpixel((0, 0)) == (128, 128, 128)


def test_a_reward_asks_by_naming_the_column() -> None:
    for name in REGISTRY:
        assert asks(resolve_reward(name), contrast.COLUMN) == (name == "grounded")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four questions, each with an image of its own colour."""
    folder = tmp_path / "questions"
    (folder / "images").mkdir(parents=True)
    samples = []
    for index, colour in enumerate(COLOURS):
        Image.new("RGB", (28, 28), colour).save(folder / f"images/{index}.png")
        samples.append(
            Sample(
                id=f"q{index}",
                images=(f"images/{index}.png",),
                question="Which organ is shown?" + " Is there a lesion?" * index,
                options=("liver", "kidney"),
                answer="liver",
                modality="MRI",
            )
        )
    write_folder(folder, samples, info={"name": "four", "source": "made by the tests", "license": "CC0-1.0"})
    return folder


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize(("group", "owns"), [(2, [True, False]), (4, [True] * 2 + [False] * 2)])
def test_half_of_each_group_sees_the_image_of_another_item(
    write_config: Callable[..., Path], questions: Path, sharing: str, group: int, owns: list[bool]
) -> None:
    contrast_rewards.SEEN.clear()
    settings = {"max_steps": 1, "per_device_train_batch_size": 2 * group, "num_generations": group, "logging_steps": 1}
    config = write_config(data={"train": str(questions)}, rewards=[ASKING], sharing=sharing, trainer=settings)
    run = train_grpo(load_config(config)).parent
    assert [own for _, own, _ in contrast_rewards.SEEN] == owns * 2
    batch = {sample for sample, _, _ in contrast_rewards.SEEN}
    for sample, own, [colour] in contrast_rewards.SEEN:
        index = COLOURS.index(colour)
        assert (f"q{index}" == sample) == own
        assert f"q{index}" in batch
    rows = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert [row["own_image"] for row in rows] == owns * 2
    # One baseline for both halves of a group.
    assert all((row["advantage"] > 0) == row["own_image"] for row in rows)
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert (logged["own_right"], logged["other_right"]) == (0, 0)


def test_rows_of_a_group_that_lie_on_two_processes(
    write_config: Callable[..., Path], questions: Path, tmp_path: Path
) -> None:
    trainer = {"max_steps": 1, "num_generations": 4, "gradient_accumulation_steps": 1}
    config = write_config(data={"train": str(questions)}, rewards=[ASKING], trainer=trainer)
    out = tmp_path / "two"
    _run([*TORCHRUN, str(SCRIPT), str(config), str(out), "trainer.per_device_train_batch_size=2"], out)
    rows = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert [row["own_image"] for row in rows] == [True, True, False, False]


def test_nothing_is_shown_where_no_reward_asks(
    write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Counted(contrast.contrasted)
    monkeypatch.setattr(contrast, "contrasted", called)
    run = train_grpo(load_config(write_config())).parent
    assert called.calls == []
    assert "own_image" not in (run / "rollouts.jsonl").read_text()
    assert "own_right" not in (run / "metrics.jsonl").read_text()


class _Sent:
    """Stands for TRL's trainer with vLLM: says how many rows it would take for one prompt."""

    def __init__(self, name: str, *, vllm: bool) -> None:
        self.reward_func_names = [name]
        self.use_vllm = vllm
        self.model = SimpleNamespace(training=True)

    def _generate_single_turn(self, prompts: Any, images: Any, fields: Any, num_generations: int) -> int:
        return num_generations


class _Shows(ShowsOthers, _Sent):
    pass


@pytest.mark.parametrize(
    ("name", "vllm", "given", "sent"),
    [
        ("grounded", True, 8, 4),
        ("grounded", True, 1, 1),
        ("grounded", False, 8, 8),
        ("accuracy_strict", True, 8, 8),
    ],
)
def test_vllm_is_sent_both_halves(name: str, vllm: bool, given: int, sent: int) -> None:
    assert _Shows(name, vllm=vllm)._generate_single_turn([], [], {}, given) == sent


def test_vllm_wants_equal_halves() -> None:
    check_contrast(["grounded"], SimpleNamespace(use_vllm=True, num_generations=8))
    check_contrast(["grounded"], SimpleNamespace(use_vllm=False, num_generations=7))
    check_contrast(["accuracy_strict"], SimpleNamespace(use_vllm=True, num_generations=7))
    with pytest.raises(UserError, match=r"is 7.*Set it to 8"):
        check_contrast(["grounded"], SimpleNamespace(use_vllm=True, num_generations=7))
