"""Training with vLLM's stand-in: it reads the prompts and images of the trainer, and its samples are on policy."""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import fake_vllm
import pytest
import torch
from peft import LoraConfig, get_peft_model
from questions import noise, write_questions
from runs import rows
from test_blank import check_blank_answers
from test_distributed import FSDP2, TORCHRUN, _run
from transformers import AutoProcessor, Qwen2VLImageProcessor

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy
from medvlm_r1.training.vllm import ExactVLLM, collapse_images, resize

WriteConfig = Callable[..., Path]
REWARD = [{"name": "sample_rewards:distinct_tokens"}]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tiny_policy_dir):
    fake_vllm.SENT.clear()
    fake_vllm.CALLS.clear()
    monkeypatch.setattr(fake_vllm.Client, "served", str(tiny_policy_dir))
    fake_vllm.install(monkeypatch.setattr)
    # TRL sets these for a colocated engine. The tests after this one must not see them.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Eight questions with one, two or no images of two to four tokens each."""
    images = [[noise(60 + 10 * row, 60, 10 * row + n) for n in range((1, 2, 0, 1)[row % 4])] for row in range(8)]
    return write_questions(tmp_path_factory.mktemp("questions"), images)


@pytest.fixture
def settings(questions):
    """A function that gives the settings of a run with vLLM on the questions."""

    def settings(mode, **changes):
        # Steps without an advantage would hide the update.
        trainer = {"per_device_train_batch_size": 8, "num_generations": 2, "logging_steps": 1, "learning_rate": 1e-2}
        trainer |= {"use_vllm": True, "vllm_mode": mode, **changes.pop("trainer", {})}
        return {"data": {"train": str(questions)}, "rewards": REWARD, **changes, "trainer": trainer}

    return settings


def differences(out):
    """Largest difference of a log-probability between vLLM and the policy, for each step."""
    rollouts = rows(out / "metrics.jsonl")
    return [row["sampling/sampling_logp_difference/max"] for row in rollouts if "loss" in row]


@pytest.mark.parametrize(
    ("sharing", "changes"),
    [*product(["on", "off"], [{}, {"max_pixels": 28 * 28 * 2}]), ("on", {"lora": {"r": 2, "alpha": 4}})],
    ids=["on", "on, bounded", "off", "off, bounded", "adapters"],
)
@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_reads_the_prompts_and_images_of_the_trainer(train, settings, mode, sharing, changes):
    largest_differences = differences(train(**settings(mode, sharing=sharing, **changes)))
    # The second step is taken with weights that the first one changed.
    assert len(largest_differences) == 2
    assert max(largest_differences) < 1e-4
    assert {len(images) for _, images in fake_vllm.SENT} == {0, 1, 2}
    largest = max(image.width * image.height for _, images in fake_vllm.SENT for image in images)
    assert (largest <= 28 * 28 * 2) == ("max_pixels" in changes)


def test_rows_that_are_left_out_do_not_change_the_step(train, settings, tmp_path, monkeypatch):
    """Rows without advantage are not computed, with importance ratios as without."""
    losses = []
    for name in ("some", "all"):
        if name == "all":
            monkeypatch.setattr(
                "medvlm_r1.training.grpo.SharedPromptTrainer._moving",
                lambda self, inputs: torch.ones(len(inputs["advantages"]), dtype=torch.bool),
            )
        torch.manual_seed(0)
        changes = {"rewards": [{"name": "test_sharing:parity"}], "trainer": {"beta": 0.0, "max_steps": 1}}
        first = rows(train(**settings("colocate", out=str(tmp_path / name), **changes)) / "metrics.jsonl")[0]
        losses.append((first["loss"], first["grad_norm"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_blank_questions_are_sent_together_with_the_others(train, settings, mode):
    rewards = [*REWARD, {"name": "sample_rewards:coded_blank", "weight": 0.0}]
    train(**settings(mode, rewards=rewards, trainer={"shuffle_dataset": False}))
    # Two generations of four prompts with two completions each; one of the prompts has no image.
    sampled, greedy = [1.0] * (8 if mode == "colocate" else 4), [0.0] * 3
    calls = [sampled + greedy] if mode == "colocate" else [sampled, greedy]
    assert sorted(fake_vllm.CALLS, reverse=True) == sorted(calls * 2, reverse=True)


@pytest.mark.parametrize(
    ("launcher", "mode", "changes"),
    [
        (TORCHRUN, "colocate", {}),
        pytest.param(TORCHRUN, "server", {}, marks=pytest.mark.engines),
        # The two completions of the second prompt are on two processes.
        (TORCHRUN, "server", {"trainer": {"per_device_train_batch_size": 3}}),
        (FSDP2, "colocate", {"lora": {"r": 2, "alpha": 4}}),
    ],
    ids=["colocate", "server", "server, groups cut", "FSDP2, lora"],
)
def test_processes_with_and_without_images(
    write_config, settings, questions, tiny_policy_dir, tmp_path, launcher, mode, changes
):
    """The second process has a prompt without an image in each step, and so fewer blank questions."""
    trainer = {"per_device_train_batch_size": 4, "shuffle_dataset": False} | changes.get("trainer", {})
    rewards = [*REWARD, {"name": "sample_rewards:coded_blank", "weight": 0.0}]
    config = write_config(**settings(mode, **{**changes, "trainer": trainer, "rewards": rewards}))
    out = tmp_path / "two"
    _run([*launcher, fake_vllm.__file__, str(config), str(out), str(tiny_policy_dir)], out)
    assert max(differences(out)) < 1e-4
    check_blank_answers(out, questions, tiny_policy_dir)


def test_synchronizing_adapters_changes_no_weight(tiny_policy_dir):
    """bfloat16 weights are the same after 300 synchronizations, and vLLM gets those of the final model."""
    policy = get_peft_model(
        load_policy(str(tiny_policy_dir), dtype="bfloat16", device="cpu").model,
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False),
    )
    generation = object.__new__(ExactVLLM)
    generation.model, generation._dist = policy, SimpleNamespace(gather_params=lambda _: nullcontext())
    before = copy.deepcopy(policy.state_dict())
    for _ in range(300):
        sent = dict(generation._iter_named_params())
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())
    final = dict(policy.float().merge_and_unload().named_parameters())
    assert sent.keys() == final.keys()
    assert all(torch.equal(sent[name], weight.to(torch.bfloat16)) for name, weight in final.items())


def test_bounds_that_vllm_would_undo_are_refused(train, settings):
    message = r"pixels, which the processor.*resize again.*at least 784 and max_pixels at most 3136"
    with pytest.raises(UserError, match=message):
        train(**settings("colocate", max_pixels=28 * 28 * 9, min_pixels=28 * 28 * 9))


def test_a_server_with_other_bounds_is_named(train, settings, tiny_policy_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_policy_dir, other)
    processor = AutoProcessor.from_pretrained(other)
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    processor.save_pretrained(other)
    fake_vllm.Client.served = str(other)
    with pytest.raises(UserError, match=r"disagree.*images of a prompt: \[\d\] in the trainer, \[1\] in vLLM"):
        train(**settings("server"))


def test_a_prompt_that_vllm_read_otherwise_is_named(train, settings, monkeypatch):
    monkeypatch.setattr("medvlm_r1.training.vllm.collapse_images", lambda ids, *_: ids)
    with pytest.raises(UserError, match=r"disagree about the tokens of a prompt: \d+ in the trainer, \d+ in vLLM"):
        train(**settings("colocate"))


@pytest.mark.parametrize(
    ("ids", "images", "collapsed"),
    [
        ([1, 7, 7, 7, 2], 1, [1, 7, 2]),
        ([7, 7, 3, 3, 7], 2, [7, 3, 3, 7]),
        ([1, 1, 2], 0, [1, 1, 2]),
        ([1, 7, 7, 2], 2, None),
        ([1, 7, 2], 0, None),
    ],
)
def test_runs_of_image_tokens_are_collapsed(ids, images, collapsed):
    if collapsed is not None:
        assert collapse_images(ids, 7, images) == collapsed
        return
    with pytest.raises(UserError, match=f"{images} images and 1 runs"):
        collapse_images(ids, 7, images)


@pytest.mark.parametrize("size", [(300, 200), (500, 31), (28, 28), (40, 30), (57, 91)])
def test_resized_images_give_the_pixels_of_the_bounded_processor(size):
    bounded = Qwen2VLImageProcessor(size={"shortest_edge": 784, "longest_edge": 784 * 6})
    own = Qwen2VLImageProcessor(size={"shortest_edge": 784, "longest_edge": 784 * 100})
    image = noise(*size, seed=0)
    resized = resize(image, bounded)
    assert resize(resized, own) == resized
    expected, got = (
        processor(images=[picture], return_tensors="pt") for processor, picture in ((bounded, image), (own, resized))
    )
    assert torch.equal(got["image_grid_thw"], expected["image_grid_thw"])
    assert torch.equal(got["pixel_values"], expected["pixel_values"])


def test_the_rule_of_an_unknown_processor_is_refused():
    from transformers import CLIPImageProcessor

    with pytest.raises(UserError, match="cannot be used with vLLM and CLIPImageProcessor"):
        resize(noise(28, 28, 0), CLIPImageProcessor())
