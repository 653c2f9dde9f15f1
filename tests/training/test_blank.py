"""Answers to blank images: the right ones, once a prompt, and without a trace in the training."""

from collections.abc import Callable

import blank_rewards
import fake_vllm
import numpy as np
import pytest
import sample_rewards
from counted import Counted
from PIL import Image
from questions import write_questions
from runs import At, rows, same_weights
from test_distributed import FSDP2, SCRIPT, TORCHRUN, _run
from trl import GRPOTrainer

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import load_policy
from medvlm_r1.prompts.templates import messages
from medvlm_r1.rewards import REGISTRY, asks, resolve_reward
from medvlm_r1.training.config import RunConfig, load_config
from medvlm_r1.training.counterfactual import blank_image as blank
from medvlm_r1.training.grpo import train_grpo

ORGANS = ("liver", "kidney", "brain", "knee")
PAYING = {"name": "sample_rewards:distinct_tokens"}
ASKING = {"name": "blank_rewards:noting", "weight": 0.0}
Configure = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _nothing_seen(monkeypatch):
    blank_rewards.SEEN.clear()
    sample_rewards.SEEN_SAMPLES.clear()
    # A policy of random weights answers with no letter; its whole text tells answers apart.
    monkeypatch.setattr(blank, "strict_letter", lambda text: text)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Eight questions that differ in text and size of image; A, B, C and D are right twice each."""
    return illustrated_questions(tmp_path_factory.mktemp("questions"), range(8))


def illustrated_questions(folder, illustrated):
    images = [
        [Image.new("RGB", (28 + 14 * (index % 3), 40), (30 * index, 90, 160))] if index in illustrated else []
        for index in range(8)
    ]
    return write_questions(
        folder,
        images,
        question=["Which organ is shown?" + " Is there a lesion?" * index for index in range(8)],
        options=[ORGANS] * 8,
        answer=ORGANS * 2,
    )


@pytest.fixture
def configure(write_config, questions):
    """A function that makes the configuration of two short steps on the questions, changed by its arguments."""

    def make(**changes):
        return load_config(write_config(**{"data": {"train": str(questions)}, **changes}))

    return make


def blank_answers(model, folder, samples, tokens=6):
    """What a policy says greedily to the samples with grey images of the same size."""
    generator = LocalGenerator(policy=load_policy(model), batch_size=1)
    inputs = [
        GenerationInput(
            prompt=messages(sample),
            images=[Image.new("RGB", load_image(folder / image).size, (128, 128, 128)) for image in sample.images],
        )
        for sample in samples
    ]
    answers = generator.generate(inputs, GenerationSettings(max_new_tokens=tokens))
    return {sample.id: answer.text for sample, answer in zip(samples, answers, strict=True)}


def check_blank_answers(out, folder, model):
    """The blank answers of the first step are those of the untrained policy to the same questions."""
    first = [row for row in rows(out / "rollouts.jsonl") if row["step"] == 1]
    samples = [sample for sample in read_folder(folder) if sample.id in {row["sample_id"] for row in first}]
    answers = blank_answers(str(model), folder, [sample for sample in samples if sample.images])
    assert len(samples) > 1
    for row in first:
        assert row["rewards"]["blank_rewards:coded"] == blank_rewards.code(answers.get(row["sample_id"]))


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (7, 300)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_blank_image_has_the_size_and_shows_nothing(size, mode):
    made = blank_like(Image.new(mode, size))
    assert (made.mode, made.size) == ("RGB", size)
    assert np.unique(np.asarray(made)).tolist() == [128]


def test_a_reward_asks_by_naming_the_column():
    for name in REGISTRY:
        assert not asks(resolve_reward(name), blank.COLUMN)
    assert asks(blank_rewards.noting, blank.COLUMN)
    assert not asks(sample_rewards.distinct_tokens, blank.COLUMN)


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_the_answers_are_the_policys_own(configure, tiny_policy_dir, questions, sharing):
    # With a learning rate of 0 the final model is the one that answered.
    config = configure(rewards=[PAYING, ASKING], sharing=sharing, trainer={"max_steps": 2, "learning_rate": 0.0})
    train_grpo(config)
    expected = blank_answers(str(tiny_policy_dir), questions, read_folder(questions))
    assert len(blank_rewards.SEEN) == 8
    assert len({letter for _, letter in blank_rewards.SEEN}) > 1
    for sample, letter in blank_rewards.SEEN:
        assert letter == expected[sample]


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_the_policy_is_asked_as_it_is_at_that_step(configure, tiny_policy_dir, questions, sharing):
    settings = {"max_steps": 3, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "save_steps": 1}
    run = train_grpo(configure(rewards=[PAYING, ASKING], sharing=sharing, trainer=settings)).parent
    last = dict(blank_rewards.SEEN[-4:])
    samples = [sample for sample in read_folder(questions) if sample.id in last]
    assert blank_answers(str(run / "checkpoints" / "checkpoint-2"), questions, samples) == last
    assert blank_answers(str(tiny_policy_dir), questions, samples) != last


@pytest.mark.parametrize("sharing", ["on", "off"])
@pytest.mark.parametrize(
    ("trainer", "generations", "prompts"),
    [
        ({}, 2, 2),
        ({"num_generations": 4}, 2, 1),
        # Two parts of a generation batch of four prompts, one optimizer step each.
        ({"gradient_accumulation_steps": 2}, 2, 4),
        # Two passes over each generation batch: the second asks nothing.
        ({"num_iterations": 2}, 1, 2),
    ],
)
def test_once_a_prompt_and_generation(configure, monkeypatch, sharing, trainer, generations, prompts):
    calls = Counted(GRPOTrainer._generate_single_turn)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *args: calls(*args))
    run = train_grpo(configure(rewards=[PAYING, ASKING], sharing=sharing, trainer=trainer)).parent
    group = trainer.get("num_generations", 2)
    # The blank questions are further prompts of the same call.
    count = 2 * prompts if sharing == "on" else prompts * (group + 1)
    assert [len(arguments[1]) for arguments in calls.calls] == [count] * generations
    rollouts = rows(run / "rollouts.jsonl")
    assert len(blank_rewards.SEEN) == len(rollouts) == generations * prompts * group
    logged = rows(run / "metrics.jsonl")
    assert [row["blank_right"] for row in logged if "blank_right" in row] == [0.0] * generations


def test_asking_changes_nothing_of_the_training(configure, tmp_path):
    changes = {"trainer": {"max_steps": 4}}
    without = train_grpo(configure(rewards=[PAYING], out=str(tmp_path / "without"), **changes))
    config = configure(rewards=[PAYING, ASKING], out=str(tmp_path / "with"), **changes)
    assert same_weights(without, train_grpo(config))


def test_nothing_is_asked_where_no_reward_wants_it(configure, monkeypatch):
    blanks = Counted(blank._blanked)
    monkeypatch.setattr(blank, "_blanked", blanks)
    run = train_grpo(configure(rewards=[PAYING])).parent
    assert blanks.calls == []
    assert "blank_right" not in (run / "metrics.jsonl").read_text()


def test_a_resumed_run_takes_the_same_steps(configure, tmp_path):
    settings = {"rewards": [PAYING, ASKING], "trainer": {"max_steps": 6}}
    straight = train_grpo(configure(**settings, out=str(tmp_path / "straight")))
    expected = list(blank_rewards.SEEN)
    blank_rewards.SEEN.clear()
    config = configure(**settings, out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        train_grpo(config, progress=At(3))
    resumed = train_grpo(config)
    assert expected == blank_rewards.SEEN
    assert same_weights(straight, resumed)


# TRL's own way takes no batch in which some prompts have images and others have none.
@pytest.mark.parametrize(("sharing", "illustrated"), [("on", {1, 2, 5}), ("on", set()), ("off", set())])
def test_questions_without_images_are_not_asked_again(configure, tmp_path, capsys, sharing, illustrated):
    (tmp_path / "mixed").mkdir()
    folder = illustrated_questions(tmp_path / "mixed", illustrated)
    train_grpo(
        configure(rewards=[PAYING, ASKING], sharing=sharing, data={"train": str(folder)}, trainer={"max_steps": 4})
    )
    asked = {sample for sample, letter in blank_rewards.SEEN if letter is not None}
    assert asked == {f"q{index}" for index in illustrated}
    assert len({sample for sample, _ in blank_rewards.SEEN}) == 8
    assert capsys.readouterr().err.count("Some prompts have no image") == 1


def test_the_share_of_correct_blank_answers_is_logged(configure, monkeypatch):
    # The blank answer is always A, which is correct for two questions of the eight.
    monkeypatch.setattr(blank, "strict_letter", lambda text: "A")
    config = configure(
        rewards=[{"name": "blank_rewards:unlike_blank"}],
        trainer={"max_steps": 1, "gradient_accumulation_steps": 4, "logging_steps": 1},
    )
    run = train_grpo(config).parent
    rollouts = rows(run / "rollouts.jsonl")
    assert {row["sample_id"]: row["reward"] for row in rollouts} == {f"q{i}": float(i % 4 > 0) for i in range(8)}
    logged = rows(run / "metrics.jsonl")
    assert logged[0]["blank_right"] == pytest.approx(2 / 8)


def test_two_processes_answer_for_the_prompts_they_have(write_config, questions, tmp_path):
    config = write_config(
        data={"train": str(questions)},
        rewards=[{"name": "blank_rewards:by_blank"}],
        trainer={
            "max_steps": 2,
            "num_generations": 4,
            "gradient_accumulation_steps": 1,
            "shuffle_dataset": False,
            "scale_rewards": "none",
            "logging_steps": 1,
        },
    )
    script = str(SCRIPT.with_name("blank_run.py"))
    runs = []
    for launcher, size in ([], 8), (TORCHRUN, 4):
        out = tmp_path / str(size)
        size_given = f"trainer.per_device_train_batch_size={size}"
        figures, *_ = _run([*launcher, script, str(config), str(out), size_given], out)
        runs.append([(row["reward"], row["blank_right"]) for row in figures])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other)
    assert len({reward for reward, _ in runs[0]}) == 2


def test_a_process_without_images_waits_for_no_other(write_config, tiny_policy_dir, tmp_path):
    """Sharded weights, generation by transformers' own loop, and no image on the second process in the first step."""
    (tmp_path / "mixed").mkdir()
    folder = illustrated_questions(tmp_path / "mixed", {0, 1, 4, 6})
    config = write_config(
        data={"train": str(folder)},
        rewards=[PAYING, {"name": "blank_rewards:coded", "weight": 0.0}],
        trainer={"shuffle_dataset": False, "generation_kwargs": {"use_cache": False}},
    )
    out = tmp_path / "two"
    _run([*FSDP2, fake_vllm.__file__, str(config), str(out), str(tiny_policy_dir)], out)
    check_blank_answers(out, folder, tiny_policy_dir)


def test_sharded_weights_without_sharing_refuse_mixed_questions(configure, tmp_path, monkeypatch):
    (tmp_path / "mixed").mkdir()
    folder = illustrated_questions(tmp_path / "mixed", {1})
    monkeypatch.setattr("medvlm_r1.training.grpo.is_sharded", lambda _: True)
    with pytest.raises(UserError, match=r"Some questions have images and others have none.*sharing: on"):
        train_grpo(configure(sharing="off", data={"train": str(folder)}))
