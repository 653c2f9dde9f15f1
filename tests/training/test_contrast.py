"""Half of each group with another question's image: whose, of which rows, in which runs."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import sample_rewards
from PIL import Image
from questions import write_questions
from runs import rows
from test_distributed import SCRIPT, TORCHRUN, _run
from trl import GRPOTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.rewards import REGISTRY, asks, resolve_reward
from medvlm_r1.training import counterfactual
from medvlm_r1.training.counterfactual import (
    CounterfactualImages,
    OtherImages,
    check_counterfactual,
    with_counterfactual_images,
)
from medvlm_r1.training.dataset import build_dataset, load_samples

ASKING = {"name": "sample_rewards:own"}
COLORS = [(40 * index, 90, 160) for index in range(6)]
# Of the first four questions two are of one patient. The other two are alone with their modality.
SUBJECTS = ["a", "a", "b", "c", "d", "d"]
MODALITIES = ["MRI"] * 4 + ["CT"] * 2


@pytest.fixture
def questions(tmp_path):
    """Six questions, each with an image of its own color."""
    (tmp_path / "questions").mkdir()
    images = [[Image.new("RGB", (28, 28), color)] for color in COLORS]
    return write_questions(tmp_path / "questions", images, subject=SUBJECTS, modality=MODALITIES)


def load(folder):
    return build_dataset(str(folder), load_samples(str(folder)), template="medvlm-r1")


def test_the_other_image_is_of_another_subject_and_depends_on_seed_step_and_question(questions):
    dataset = load(questions)

    def donors(index, seed=0):
        """The questions whose images are drawn for a question."""
        images = [OtherImages(dataset, seed)(dataset[index], step=step) for step in range(20)]
        return [COLORS.index(image.getpixel((0, 0))) for [image] in images]

    assert set(donors(0)) == {2, 3}
    assert set(donors(2)) == {0, 1, 3}
    assert donors(2) == donors(2)
    assert donors(2) != donors(2, seed=1)
    assert donors(2) != donors(3)


def test_images_of_another_number_or_with_equal_pixels_are_passed_over(tmp_path):
    red, green, blue = (Image.new("RGB", (28, 28), color) for color in ("red", "green", "blue"))
    dataset = load(write_questions(tmp_path, [[red], [red], [red, green], [blue], []]))
    other = OtherImages(dataset, 0)
    assert all(other(dataset[0], step=step) == [blue] for step in range(8))
    assert other(dataset[2], step=0) is None
    assert other.without == 1


def test_rows_are_swapped_and_gray_is_shown_where_there_is_no_other():
    own, other = ([Image.new("RGB", (30, 20), color)] for color in ("red", "blue"))
    rows = [{"images": images, "sample_id": name} for name, images in (("a", own), ("a", own), ("b", own), ("c", None))]
    draw = Mock(side_effect=lambda row: other if row["sample_id"] == "a" else None)
    swapped = with_counterfactual_images([*rows, rows[1], rows[0]], [True, False, False, False, False, True], draw)
    assert [row["own_image"] for row in swapped] == [True, False, False, True, False, True]
    # One draw for each question, so that the rows of a group share a prompt.
    assert [call.args[0]["sample_id"] for call in draw.call_args_list] == ["a", "b"]
    assert swapped[1]["images"] is swapped[4]["images"] is other
    assert swapped[0]["images"] is swapped[5]["images"] is own
    assert swapped[3]["images"] is None
    [gray] = swapped[2]["images"]
    assert (gray.size, gray.getcolors()) == ((30, 20), [(600, (128, 128, 128))])


def test_a_reward_asks_by_naming_the_column():
    for name in REGISTRY:
        assert asks(resolve_reward(name), counterfactual.OWN_IMAGE) == (name == "grounded")


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize(("group", "owns"), [(2, [True, False]), (4, [True] * 2 + [False] * 2)])
def test_half_of_each_group_sees_the_image_of_another_question(train, questions, capsys, sharing, group, owns):
    trainer = {"max_steps": 1, "per_device_train_batch_size": 6 * group, "num_generations": group, "logging_steps": 1}
    run = train(data={"train": str(questions)}, rewards=[ASKING], sharing=sharing, trainer=trainer)
    assert [row["own_image"] for row in sample_rewards.SEEN] == owns * 6
    for row in sample_rewards.SEEN:
        index, color = int(row["sample_id"][1]), sample_rewards.pixel(row["prompt"])
        if row["own_image"]:
            assert color == COLORS[index]
        elif MODALITIES[index] == "CT":
            assert color == (128, 128, 128)
        else:
            assert SUBJECTS[COLORS.index(color)] != SUBJECTS[index]
    assert capsys.readouterr().err.count("2 questions have no other image") == 1
    rollouts = rows(run / "rollouts.jsonl")
    assert [row["own_image"] for row in rollouts] == owns * 6
    # One baseline for both halves of a group.
    assert all((row["advantage"] > 0) == row["own_image"] for row in rollouts)
    logged = rows(run / "metrics.jsonl")[0]
    assert (logged["own_right"], logged["other_right"]) == (0, 0)


@pytest.mark.parametrize("size", [4, 2], ids=["a prompt each", "half a prompt each"])
def test_processes_with_one_prompt_show_real_images(write_config, questions, tmp_path, size):
    trainer = {"max_steps": 2, "num_generations": 4, "gradient_accumulation_steps": 1, "shuffle_dataset": False}
    data = {"train": str(questions), "modality": ["MRI"]}
    config = write_config(data=data, rewards=[{"name": "sample_rewards:color"}], trainer=trainer)
    out = tmp_path / "two"
    _run([*TORCHRUN, str(SCRIPT), str(config), str(out), f"trainer.per_device_train_batch_size={size}"], out)
    rollouts = rows(out / "rollouts.jsonl")
    assert len(rollouts) == 4 * size
    assert [row["own_image"] for row in rollouts] == [True, True, False, False] * size
    for row in rollouts:
        # The reward is the red value of the image.
        seen, index = row["reward"] / 40, int(row["sample_id"][1])
        assert SUBJECTS[int(seen)] != SUBJECTS[index] or row["own_image"]
        assert seen in range(4)


def test_nothing_is_shown_where_no_reward_asks(train, monkeypatch):
    called = Mock()
    monkeypatch.setattr(counterfactual, "with_counterfactual_images", called)
    run = train()
    assert not called.called
    assert "own_image" not in (run / "rollouts.jsonl").read_text()
    assert "own_right" not in (run / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "vllm", "given", "sent"),
    [("grounded", True, 8, 4), ("grounded", True, 1, 1), ("grounded", False, 8, 8), ("accuracy_strict", True, 8, 8)],
)
def test_vllm_is_sent_both_halves(monkeypatch, name, vllm, given, sent):
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda self, prompts, images, fields, rows: rows)
    trainer = object.__new__(CounterfactualImages)
    trainer.reward_func_names, trainer.use_vllm, trainer.model = [name], vllm, SimpleNamespace(training=True)
    assert trainer._generate_single_turn([], [], {}, given) == sent


def test_halves_must_be_equal():
    check_counterfactual(["grounded"], SimpleNamespace(num_generations=8))
    check_counterfactual(["accuracy_strict"], SimpleNamespace(num_generations=7))
    with pytest.raises(UserError, match=r"is 7.*Set it to 8"):
        check_counterfactual(["grounded"], SimpleNamespace(num_generations=7))
