"""Each guard on a real run that goes wrong from a known step on: it speaks within ten steps of that, not before."""

import math
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import At
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import Trainer
from trl import SFTTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.training.callbacks import PeriodicEvaluation
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.reliability import nan_guard
from medvlm_r1.training.reliability.checkpoint import damage
from medvlm_r1.training.reliability.nan_guard import NanGuard, NonFinite
from medvlm_r1.training.sft import train_sft

ONSET, WITHIN = 6, 10
LONGEST = 12


class Trouble:
    """Whether it has begun; made by a test, told by its run."""

    def __init__(self):
        self.begun = False

    def begin(self):
        """From the next step on."""
        self.begun = True


@pytest.fixture
def trouble(monkeypatch):
    """What the rewards of these runs look at."""
    import sample_rewards

    made = Trouble()
    monkeypatch.setattr(sample_rewards, "TROUBLE", made)
    return made


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


def spoke_at(stderr, name):
    return [int(step) for step in re.findall(rf"Guard \({name}\) at step (\d+): ", stderr)]


def check_in_time(stderr, name):
    """One line with a sample, within ten steps of the onset, and none of this guard before it."""
    steps = spoke_at(stderr, name)
    assert len(steps) == 1, stderr
    assert ONSET < steps[0] <= ONSET + WITHIN
    [line] = [line for line in stderr.split("\n") if f"Guard ({name})" in line]
    assert " Try " in line
    assert "A sample (q" in line


def run(write_config, trouble, **changes):
    trainer = {"max_steps": ONSET + WITHIN, "save_strategy": "no", **changes.pop("trainer", {})}
    settings = {"rewards": [{"name": "sample_rewards:distinct_tokens"}], **changes}
    evaluate = settings.pop("evaluate", None)
    config = load_config(write_config(trainer=trainer, **settings))
    train_grpo(config, progress=At(ONSET, trouble.begin), evaluate=evaluate)


@pytest.mark.parametrize(
    ("name", "reward"), [("zero rewards", "nothing_in_trouble"), ("no advantage", "one_in_trouble")]
)
def test_rewards_that_say_nothing_any_more(write_config, trouble, capsys, tried, name, reward):
    run(write_config, trouble, rewards=[{"name": f"sample_rewards:{reward}"}])
    check_in_time(capsys.readouterr().err, name)
    tried("guards-onset", 1)


@pytest.mark.parametrize(("name", "before", "after"), [("cut off", 40.0, -40.0), ("length collapse", -40.0, 40.0)])
def test_completions_that_end_never_or_at_once(
    write_config, tiny_policy_dir, trouble, capsys, tried, name, before, after
):
    end = load_policy(str(tiny_policy_dir)).processor.tokenizer.eos_token_id

    def lean(output):
        at_end = torch.zeros_like(output)
        at_end[..., end] = after if trouble.begun else before
        return output + at_end

    with logits(tiny_policy_dir, lean):
        run(write_config, trouble, trainer={"max_completion_length": LONGEST})
    check_in_time(capsys.readouterr().err, name)
    tried("guards-onset", 1)


@pytest.mark.parametrize("learning_rate", [1e-6, 1e-3], ids=["near", "half a nat away"])
def test_a_policy_that_leaves_its_reference(write_config, trouble, capsys, tried, learning_rate):
    def push(optimizer, *_):
        if trouble.begun:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.data += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    handle = register_optimizer_step_post_hook(push)
    try:
        run(write_config, trouble, trainer={"learning_rate": learning_rate})
    finally:
        handle.remove()
    check_in_time(capsys.readouterr().err, "KL run-away")
    tried("guards-onset", 1)


def test_an_image_that_is_looked_at_less_and_less(write_config, trouble, capsys, tried):
    def evaluate(policy, step):
        return {"accuracy": 80.0, "blank_accuracy": 70.0 if trouble.begun else 40.0}

    run(write_config, trouble, evaluate=evaluate, evaluate_every=4)
    check_in_time(capsys.readouterr().err, "image gap shrinking")
    tried("guards-onset", 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_its_step(write_config, monkeypatch, trouble, tried, value):
    compute_loss = SFTTrainer.compute_loss

    def lost(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        return loss * value if trouble.begun else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", lost)
    trainer = {"max_steps": ONSET + WITHIN, "save_steps": 1}
    config = load_config(write_config("sft", trainer=trainer))
    with pytest.raises(NonFinite, match=rf"After step {ONSET} of {ONSET + WITHIN}, the loss is {value}\.") as stopped:
        train_sft(config, progress=At(ONSET, trouble.begin))
    assert "The batch: q" in str(stopped.value)
    assert f"checkpoint-{ONSET} is good" in str(stopped.value)
    assert "finite rewards" in str(stopped.value)
    assert damage(Path(config.out) / "checkpoints" / f"checkpoint-{ONSET}") is None
    assert not (Path(config.out) / "model").exists()
    tried("guards-non-finite", 1)


class _Sharded(nn.Module):
    """A model whose weights are on other devices or processes, as with ZeRO-3."""

    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0))
        self.weight.ds_tensor = torch.tensor([1.0, value])


class _Guarded(NanGuard):
    """As much of a trainer with DeepSpeed as the guard reads."""

    def __init__(self, folder, value=1.0):
        self.model = _Sharded(value)
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model, scaler=None)
        self.args = SimpleNamespace(output_dir=str(folder), learning_rate=1e-3, max_grad_norm=1.0, fp16=False)
        self.state = SimpleNamespace(global_step=3, max_steps=5)
        self.is_deepspeed_enabled = True


@pytest.mark.parametrize("other", [[], ["language.weight"]], ids=["own", "of another process"])
def test_shards_of_every_process_are_checked(tmp_path, monkeypatch, other):
    monkeypatch.setattr(nan_guard, "gather_object", lambda names: names)
    nan_guard.refuse_unless_finite(_Guarded(tmp_path))
    monkeypatch.setattr(nan_guard, "gather_object", lambda names: [*names, *other])
    named = "language.weight" if other else "weight"
    with pytest.raises(NonFinite, match=rf"the weight {named} is not finite.*It was not saved"):
        nan_guard.refuse_unless_finite(_Guarded(tmp_path, 1.0 if other else math.nan))


@pytest.mark.parametrize("norm", [-1.0, math.nan, math.inf])
def test_the_norm_that_deepspeed_reports_is_checked(tmp_path, monkeypatch, norm):
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm: grad_norm)
    trainer = _Guarded(tmp_path)
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
