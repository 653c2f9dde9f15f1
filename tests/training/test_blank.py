"""Answers to blank images: the right ones, once a prompt, and without a trace in the training."""

from unittest.mock import Mock

import fake_vllm
import pytest
import sample_rewards
from PIL import Image
from questions import write_questions
from runs import rows, same_weights
from test_distributed import FSDP2, SCRIPT, TORCHRUN, _run
from trl import GRPOTrainer

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.images.picture import blank_like
from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import load_policy
from medvlm_r1.prompts.templates import messages
from medvlm_r1.rewards import REGISTRY, asks, resolve_reward
from medvlm_r1.training import counterfactual
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

ORGANS = ("liver", "kidney", "brain", "knee")
PAYING = {"name": "sample_rewards:distinct_tokens"}
ASKING = {"name": "sample_rewards:coded_blank", "weight": 0.0}


@pytest.fixture(autouse=True)
def _whole_texts(monkeypatch):
    # A policy of random weights answers with no letter; its whole text tells answers apart.
    monkeypatch.setattr(counterfactual, "strict_letter", lambda text: text)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Eight questions that differ in text and size of image; A, B, C and D are right twice each."""
    return illustrated_questions(tmp_path_factory.mktemp("questions"), range(8))


def illustrated_questions(folder, illustrated):
    folder.mkdir(exist_ok=True)
    images = [
        [Image.new("RGB", (28 + 14 * (index % 3), 40), (30 * index, 90, 160))] if index in illustrated else []
        for index in range(8)
    ]
    texts = ["Which organ is shown?" + " Is there a lesion?" * index for index in range(8)]
    return write_questions(folder, images, question=texts, options=[ORGANS] * 8, answer=ORGANS * 2)


@pytest.fixture
def configure(write_config, questions):
    """A function that makes the configuration of two short steps on the questions, changed by its arguments."""
    defaults = {"data": {"train": str(questions)}, "rewards": [PAYING, ASKING]}
    return lambda **changes: load_config(write_config(**{**defaults, **changes}))


def answers():
    """The sample and the blank answer of every completion that was scored."""
    return [(row["sample_id"], row["blank_letter"]) for row in sample_rewards.SEEN]


def blank_answers(model, folder, names):
    """What a policy says greedily to these samples with gray images of the same size."""
    samples = [sample for sample in read_folder(folder) if sample.id in names and sample.images]
    inputs = [
        GenerationInput(
            prompt=messages(sample),
            images=[Image.new("RGB", load_image(folder / image).size, (128, 128, 128)) for image in sample.images],
        )
        for sample in samples
    ]
    generator = LocalGenerator(policy=load_policy(str(model)), batch_size=1)
    texts = generator.generate(inputs, GenerationSettings(max_new_tokens=6))
    return {sample.id: answer.text for sample, answer in zip(samples, texts, strict=True)}


def check_blank_answers(out, folder, model):
    """The blank answers of the first step are those of the untrained policy to the same questions."""
    first = [row for row in rows(out / "rollouts.jsonl") if row["step"] == 1]
    expected = blank_answers(model, folder, {row["sample_id"] for row in first})
    assert len({row["sample_id"] for row in first}) > 1
    for row in first:
        assert row["rewards"]["sample_rewards:coded_blank"] == sample_rewards.code(expected.get(row["sample_id"]))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_blank_image_has_the_size_and_shows_nothing(mode):
    for size in ((40, 30), (1, 1), (7, 300)):
        made = blank_like(Image.new(mode, size))
        assert (made.mode, made.size, made.getcolors()) == ("RGB", size, [(size[0] * size[1], (128, 128, 128))])


def test_a_reward_asks_by_naming_the_column():
    assert not any(asks(resolve_reward(name), counterfactual.BLANK_LETTER) for name in REGISTRY)
    assert asks(sample_rewards.coded_blank, counterfactual.BLANK_LETTER)
    assert not asks(sample_rewards.distinct_tokens, counterfactual.BLANK_LETTER)


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_the_answers_are_those_of_the_policy_at_that_step(configure, tiny_policy_dir, questions, sharing):
    settings = {"max_steps": 3, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "save_steps": 1}
    run = train_grpo(configure(sharing=sharing, trainer=settings)).parent
    first, last = dict(answers()[:4]), dict(answers()[-4:])
    assert blank_answers(tiny_policy_dir, questions, first) == first
    assert blank_answers(run / "checkpoints" / "checkpoint-2", questions, last) == last
    assert blank_answers(tiny_policy_dir, questions, last) != last
    assert len({letter for _, letter in answers()}) > 1


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
    calls = Mock(wraps=GRPOTrainer._generate_single_turn)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *args: calls(*args))
    run = train_grpo(configure(sharing=sharing, trainer=trainer)).parent
    group = trainer.get("num_generations", 2)
    # The blank questions are further prompts of the same call.
    count = 2 * prompts if sharing == "on" else prompts * (group + 1)
    assert [len(call.args[1]) for call in calls.call_args_list] == [count] * generations
    assert len(answers()) == len(rows(run / "rollouts.jsonl")) == generations * prompts * group
    logged = rows(run / "metrics.jsonl")
    assert [row["blank_right"] for row in logged if "blank_right" in row] == [0.0] * generations


def test_asking_changes_nothing_of_the_training(configure, tmp_path, monkeypatch):
    blanks = Mock(wraps=counterfactual._blanked)
    monkeypatch.setattr(counterfactual, "_blanked", blanks)
    changes = {"trainer": {"max_steps": 4}}
    without = train_grpo(configure(rewards=[PAYING], out=str(tmp_path / "without"), **changes))
    assert not blanks.called
    assert "blank_right" not in (without.parent / "metrics.jsonl").read_text()
    assert same_weights(without, train_grpo(configure(out=str(tmp_path / "with"), **changes)))
    assert blanks.called


# TRL's own way takes no batch in which some prompts have images and others have none.
@pytest.mark.parametrize(("sharing", "illustrated"), [("on", {1, 2, 5}), ("on", set()), ("off", set())])
def test_questions_without_images_are_not_asked_again(configure, tmp_path, capsys, sharing, illustrated):
    folder = illustrated_questions(tmp_path / "mixed", illustrated)
    train_grpo(configure(sharing=sharing, data={"train": str(folder)}, trainer={"max_steps": 4}))
    assert {sample for sample, letter in answers() if letter is not None} == {f"q{index}" for index in illustrated}
    assert len({sample for sample, _ in answers()}) == 8
    assert capsys.readouterr().err.count("Some prompts have no image") == 1


def test_the_share_of_correct_blank_answers_is_logged(configure, monkeypatch):
    # The blank answer is always A, which is correct for two questions of the eight.
    monkeypatch.setattr(counterfactual, "strict_letter", lambda text: "A")
    trainer = {"max_steps": 1, "gradient_accumulation_steps": 4, "logging_steps": 1}
    run = train_grpo(configure(rewards=[{"name": "sample_rewards:unlike_blank"}], trainer=trainer)).parent
    rollouts = rows(run / "rollouts.jsonl")
    assert {row["sample_id"]: row["reward"] for row in rollouts} == {f"q{i}": float(i % 4 > 0) for i in range(8)}
    assert rows(run / "metrics.jsonl")[0]["blank_right"] == pytest.approx(2 / 8)


def test_two_processes_answer_for_the_prompts_they_have(write_config, questions, tmp_path):
    trainer = {"max_steps": 2, "num_generations": 4, "gradient_accumulation_steps": 1, "shuffle_dataset": False}
    trainer |= {"scale_rewards": "none", "logging_steps": 1}
    rewards = [{"name": "sample_rewards:length_by_blank"}]
    config = write_config(data={"train": str(questions)}, rewards=rewards, trainer=trainer)
    runs = []
    for launcher, size in ([], 8), (TORCHRUN, 4):
        out = tmp_path / str(size)
        size_given = f"trainer.per_device_train_batch_size={size}"
        figures, *_ = _run([*launcher, str(SCRIPT), str(config), str(out), size_given], out)
        runs.append([(row["reward"], row["blank_right"]) for row in figures])
    for alone, both in zip(*runs, strict=True):
        assert alone == pytest.approx(both)
    assert len({reward for reward, _ in runs[0]}) == 2


def test_a_process_without_images_waits_for_no_other(write_config, tiny_policy_dir, tmp_path):
    """Sharded weights, generation by transformers' own loop, and no image on the second process in the first step."""
    folder = illustrated_questions(tmp_path / "mixed", {0, 1, 4, 6})
    trainer = {"shuffle_dataset": False, "generation_kwargs": {"use_cache": False}}
    config = write_config(data={"train": str(folder)}, rewards=[PAYING, ASKING], trainer=trainer)
    out = tmp_path / "two"
    _run([*FSDP2, fake_vllm.__file__, str(config), str(out), str(tiny_policy_dir)], out)
    check_blank_answers(out, folder, tiny_policy_dir)


def test_sharded_weights_without_sharing_refuse_mixed_questions(configure, tmp_path, monkeypatch):
    folder = illustrated_questions(tmp_path / "mixed", {1})
    monkeypatch.setattr("medvlm_r1.training.grpo.is_sharded", lambda _: True)
    with pytest.raises(UserError, match=r"Some questions have images and others have none.*sharing: on"):
        train_grpo(configure(sharing="off", data={"train": str(folder)}))
