"""Sharing under FSDP2: two processes with unequal rows take the steps that one process takes."""

import pytest
import transformers.integrations.deepspeed as deepspeed
from questions import write_mixed
from runs import rows, weights
from test_distributed import FSDP2, REWARDS, SCRIPT, STEPS, _run

from medvlm_r1.models.load import load_merged
from medvlm_r1.training import loop
from tiny_policy import build_tiny_policy


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """In some steps one process has no image."""
    return write_mixed(tmp_path_factory.mktemp("mixed"))


def difference(one, two, base):
    """Compare the run folders of one process and of two, which train the model in the folder `base`.

    Returns:
        The largest relative difference of a loss or gradient norm, and the difference of the final weights relative to
        the update.
    """
    alone, both = ([row for row in rows(run / "metrics.jsonl") if "loss" in row] for run in (one, two))
    assert len(alone) == len(both) == 4
    before, wanted, trained = (weights(model) for model in (base, one / "model", two / "model"))
    assert before.keys() == wanted.keys() == trained.keys()
    steps = max(
        abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(alone, both, strict=True) for key in ("loss", "grad_norm")
    )

    def distance(some, others):
        return sum(float((some[name].double() - others[name].double()).norm() ** 2) for name in wanted) ** 0.5

    return steps, distance(trained, wanted) / distance(wanted, before)


def plain_descent(write_config, data, *, beta, lora, model):
    """A configuration of four steps of plain gradient descent."""
    adapters = {"lora": {"r": 4, "alpha": 8}} if lora else {}
    trainer = {**STEPS, "beta": beta, "optim": "sgd"}
    return write_config(model=str(model), data={"train": str(data)}, rewards=REWARDS, trainer=trainer, **adapters)


# `test_vllm.py` trains adapters under FSDP2 too.
@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.engines)], ids=["all weights", "lora"])
def test_fsdp2_shares_prompts(write_config, mixed, tmp_path, lora):
    # A tied head is not written. The reference has a tower that does not change, whose features are cached.
    base, one, two = tmp_path / "tied", tmp_path / "one", tmp_path / "two"
    base.mkdir()
    build_tiny_policy(base, tied=True)
    config = plain_descent(write_config, mixed, beta=0.0 if lora else 0.04, lora=lora, model=base)
    _run([str(SCRIPT), str(config), str(one), "trainer.per_device_train_batch_size=8"], one)
    arguments = [str(SCRIPT), str(config), str(two), "trainer.per_device_train_batch_size=4"]
    assert "TRL's way" not in _run([*FSDP2, *arguments], two)[2]
    assert max(difference(one, two, base)) <= 1e-4


class _Zero3:
    def is_zero3(self):
        return True


def test_the_main_process_merges_adapters_outside_zero3(train, monkeypatch):
    """While DeepSpeed's configuration is set, `from_pretrained` shards a model over all processes, and would hang."""
    zero3, sharding = _Zero3(), []

    def merge(*arguments):
        sharding.append(deepspeed.is_deepspeed_zero3_enabled())
        return load_merged(*arguments)

    monkeypatch.setattr(loop, "refuse_unless_finite", lambda _: deepspeed.set_hf_deepspeed_config(zero3))
    monkeypatch.setattr(loop, "load_merged", merge)
    train("sft", lora={"r": 2, "alpha": 4})
    assert sharding == [False]
