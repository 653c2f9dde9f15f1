"""Reinforcement learning from answers alone: Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300).

TRL's `GRPOTrainer` does the work as it is. Added around it: the tokens that stand for images and videos can never be
sampled, every rollout is written to `samples.jsonl`, and a resumed run has the weights and the order of data it would
have had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import GRPOTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.policy.load import Policy, vision_token_ids
from medvlm_r1.rewards import Reward, resolve_reward
from medvlm_r1.training.callbacks import Evaluate, Progress, SamplerOrder
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.loop import train
from medvlm_r1.training.restore import RestoresWeights
from medvlm_r1.training.rollouts import RolloutLog
from medvlm_r1.training.run_folder import RunFolder


class _Trainer(RestoresWeights, GRPOTrainer):  # type: ignore[misc]
    pass


def train_grpo(config: RunConfig, *, progress: Progress | None = None, evaluate: Evaluate | None = None) -> Path:
    """Train with GRPO; the same call again resumes, and returns at once when the model stands.

    Args:
        config: a configuration of method "grpo".
        progress: is told of every step; the trainer's own bars and prints are off then.
        evaluate: called every `config.evaluate_every` steps with the policy and the step.

    Returns:
        The folder of the final model, `<out>/model`.

    Raises:
        UserError: the run folder belongs to another run, the data are unusable, or TRL refuses the configuration.
        KeyboardInterrupt: stopped by a signal after a checkpoint; the message says how to go on.
    """
    assert config.method == "grpo", config.method

    def build(
        *, policy: Policy, args: Any, run: RunFolder, callbacks: list[Any], train_dataset: Any, **rest: Any
    ) -> Any:
        prompts = args.generation_batch_size // args.num_generations
        if prompts > len(train_dataset):
            # TRL drops an incomplete last batch, so the run would end without a step.
            raise UserError(
                f"One generation batch takes {prompts} prompts and the data have {len(train_dataset)}; lower "
                "trainer.per_device_train_batch_size or trainer.gradient_accumulation_steps."
            )
        _forbid_vision_tokens(args, policy)
        log = RolloutLog(run.samples)
        rewards = [_named(resolve_reward(reward.name), reward.name) for reward in config.rewards]
        rewards[0] = _named(log.watched(rewards[0]), config.rewards[0].name)
        trainer = _Trainer(
            model=policy.model,
            processing_class=policy.processor,
            reward_funcs=rewards,
            args=args,
            train_dataset=train_dataset,
            callbacks=[SamplerOrder(), *callbacks, log],
            **rest,
        )
        log.attach(trainer)
        return trainer

    return train(config, build, progress=progress, evaluate=evaluate)


def _forbid_vision_tokens(args: Any, policy: Policy) -> None:
    """Forbid sampling image and video tokens: one makes the forward pass look for an image that is not there."""
    ids = vision_token_ids(policy.model, policy.processor)
    given = dict(args.generation_kwargs or {})
    if args.use_vllm:
        # vLLM has no suppress_tokens; it forbids by text.
        words = policy.processor.tokenizer.convert_ids_to_tokens(ids)
        given["bad_words"] = [*given.get("bad_words", []), *words]
    else:
        given["suppress_tokens"] = sorted({*(given.get("suppress_tokens") or []), *ids})
    args.generation_kwargs = given


def _named(reward: Reward, name: str) -> Reward:
    """The same function under the name the configuration uses, which is the one TRL logs."""

    def call(*args: Any, **columns: Any) -> list[float]:
        return reward(*args, **columns)

    call.__name__ = name
    return call
