"""Each guard on a real run that goes wrong from a known step on: it speaks within ten steps of that, not before."""

import math
import re
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from runs import At
from sample_rewards import TROUBLE
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import Trainer
from trl import SFTTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.training.callbacks import PeriodicEvaluation
from medvlm_r1.training.reliability import guard as nan_guard
from medvlm_r1.training.reliability.checkpoint import damage
from medvlm_r1.training.reliability.guard import NanGuard, NonFinite

ONSET, WITHIN = 6, 10
LONGEST = 12


def begin_trouble():
    """A progress display that begins the trouble of a test after the onset."""
    return At(ONSET, lambda: setattr(TROUBLE, "begun", True))


@contextmanager
def logits(policy, change):
    """Changes what the model says of the next token; where nothing is given back, nothing is changed."""
    words = load_policy(str(policy)).model.config.text_config.vocab_size

    def hook(module, args, output):
        # The update calls the head for log-probabilities, which are a tuple.
        is_head = isinstance(module, torch.nn.Linear) and module.out_features == words and torch.is_tensor(output)
        return change(output) if is_head else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture
def check_in_time(train, capsys, tried):
    """A function that trains until a guard speaks: one line with a sample, within ten steps of the onset."""

    def check(name, reward="distinct_tokens", evaluate=None, **changes):
        trainer = {"max_steps": ONSET + WITHIN, "save_strategy": "no", **changes.pop("trainer", {})}
        rewards = [{"name": f"sample_rewards:{reward}"}]
        train(rewards=rewards, trainer=trainer, progress=begin_trouble(), evaluate=evaluate, **changes)
        errors = capsys.readouterr().err
        [line] = [line for line in errors.split("\n") if f"Guard ({name})" in line]
        step = re.search(rf"Guard \({name}\) at step (\d+): .* Try .*A sample \(q", line)
        assert step, errors
        assert ONSET < int(step[1]) <= ONSET + WITHIN
        tried("guards-onset", 1)

    return check


@pytest.mark.parametrize(
    ("name", "reward"), [("zero rewards", "nothing_in_trouble"), ("no advantage", "equal_in_trouble")]
)
def test_rewards_that_say_nothing_any_more(check_in_time, name, reward):
    check_in_time(name, reward)


@pytest.mark.parametrize(("name", "before", "after"), [("cut off", 40.0, -40.0), ("length collapse", -40.0, 40.0)])
def test_completions_that_end_never_or_at_once(check_in_time, tiny_policy_dir, name, before, after):
    end = load_policy(str(tiny_policy_dir)).processor.tokenizer.eos_token_id

    def lean(output):
        at_end = torch.zeros_like(output)
        at_end[..., end] = after if TROUBLE.begun else before
        return output + at_end

    with logits(tiny_policy_dir, lean):
        check_in_time(name, trainer={"max_completion_length": LONGEST})


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-3], ids=["near", "half a nat away"])
def test_a_policy_that_leaves_its_reference(check_in_time, learning_rate):
    def push(optimizer, *_):
        if TROUBLE.begun:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.data += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    handle = register_optimizer_step_post_hook(push)
    try:
        check_in_time("KL run-away", trainer={"learning_rate": learning_rate})
    finally:
        handle.remove()


def test_an_image_that_is_looked_at_less_and_less(check_in_time):
    def evaluate(policy, step):
        return {"accuracy": 80.0, "blank_accuracy": 70.0 if TROUBLE.begun else 40.0}

    check_in_time("image gap shrinking", evaluate=evaluate, evaluate_every=4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_its_step(train, monkeypatch, tmp_path, tried, value):
    compute_loss = SFTTrainer.compute_loss

    def lost(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        return loss * value if TROUBLE.begun else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", lost)
    with pytest.raises(NonFinite, match=rf"After step {ONSET} of {ONSET + WITHIN}, the loss is {value}\.") as stopped:
        train("sft", trainer={"max_steps": ONSET + WITHIN, "save_steps": 1}, progress=begin_trouble())
    for words in ("The batch: q", f"checkpoint-{ONSET} is good", "finite rewards"):
        assert words in str(stopped.value)
    assert damage(tmp_path / "run" / "checkpoints" / f"checkpoint-{ONSET}") is None
    assert not (tmp_path / "run" / "model").exists()
    tried("guards-non-finite", 1)


def guarded(folder, value=1.0):
    """As much as the guard reads of a trainer with DeepSpeed, whose weights are on other devices or processes."""
    weight = nn.Parameter(torch.empty(0))
    weight.ds_tensor = torch.tensor([1.0, value])
    trainer = object.__new__(NanGuard)
    trainer.model = SimpleNamespace(named_parameters=lambda: [("weight", weight)])
    trainer.accelerator = SimpleNamespace(unwrap_model=lambda model: model, scaler=None)
    trainer.args = SimpleNamespace(output_dir=str(folder), learning_rate=1e-3, max_grad_norm=1.0, fp16=False)
    trainer.state, trainer.is_deepspeed_enabled = SimpleNamespace(global_step=3, max_steps=5), True
    return trainer


@pytest.mark.parametrize("other", [[], ["language.weight"]], ids=["own", "of another process"])
def test_shards_of_every_process_are_checked(tmp_path, monkeypatch, other):
    monkeypatch.setattr(nan_guard, "gather_object", lambda names: names)
    nan_guard.refuse_unless_finite(guarded(tmp_path))
    monkeypatch.setattr(nan_guard, "gather_object", lambda names: [*names, *other])
    named = "language.weight" if other else "weight"
    with pytest.raises(NonFinite, match=rf"the weight {named} is not finite.*It was not saved"):
        nan_guard.refuse_unless_finite(guarded(tmp_path, 1.0 if other else math.nan))


@pytest.mark.parametrize("norm", [-1.0, math.nan, math.inf])
def test_the_norm_that_deepspeed_reports_is_checked(tmp_path, monkeypatch, norm):
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm: grad_norm)
    trainer = guarded(tmp_path)
    assert trainer._get_grad_norm(None, 0.0) == 0.0
    with pytest.raises(NonFinite, match="the norm of the gradient is"):
        trainer._get_grad_norm(None, torch.tensor(norm))


@pytest.mark.parametrize(
    ("stage", "fsdp", "allowed"), [(None, False, True), (2, False, True), (3, False, False), (None, True, False)]
)
def test_periodic_evaluation_needs_whole_weights(stage, fsdp, allowed):
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    state = SimpleNamespace(deepspeed_plugin=plugin)
    trainer = SimpleNamespace(
        is_fsdp_enabled=fsdp, is_deepspeed_enabled=plugin is not None, accelerator=SimpleNamespace(state=state)
    )
    evaluation = PeriodicEvaluation(2, lambda policy, step: {}, Policy(model=None, processor=None, name=""))
    with nullcontext() if allowed else pytest.raises(UserError, match="leave it out with FSDP and ZeRO-3"):
        evaluation.attach(trainer)
