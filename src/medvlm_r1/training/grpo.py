"""Reinforcement learning from answers alone: Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300).

TRL's `GRPOTrainer` decides what is computed; `SharedPromptTrainer` changes how often. TRL runs prompt and images
through the model once for each completion; here that happens once for each prompt, in generation and for the
log-probabilities of the policy, the old policy and the reference. The results are TRL's, up to the order of sums.

Around both: the tokens that stand for images and videos can never be sampled, every rollout is written to
`rollouts.jsonl`, and a resumed run has the weights and the order of data it would have had. `sharing: off` in the
configuration is TRL's trainer (with `mixed_rows`).
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from medvlm_r1.errors import UserError
from medvlm_r1.models.decoding.shared_generation import several_of_each
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.sharing.batch import (
    FeatureStore,
    Processed,
    Prompt,
    SharedBatch,
    distinct,
    joined,
    processed,
    split,
)
from medvlm_r1.models.sharing.forward import ImageFeatures, as_encoder_output, encode_images, shared_logps
from medvlm_r1.models.sharing.limits import not_generated, not_shared, same_tower, tower_learns
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.rewards.checked import checked
from medvlm_r1.training.callbacks import Evaluate, Progress, SamplerOrder
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.counterfactual.blank_image import AnswersBlank
from medvlm_r1.training.counterfactual.other_image import ShowsOthers, check_contrast
from medvlm_r1.training.loop import train
from medvlm_r1.training.mixed_rows import MixedRowsTrainer
from medvlm_r1.training.reliability.mixin import Dependable
from medvlm_r1.training.rollouts import CompletesOpenedReasoning, RolloutLog, named
from medvlm_r1.training.run_folder import RunFolder

FEATURES_MB = 512.0
"""Main memory for image features that do not change during a run: those of the reference, and of a frozen tower."""


class SharedPromptTrainer(MixedRowsTrainer):
    """TRL's GRPO trainer that computes each prompt and each image once.

    * The image processor runs once for each prompt of a generation batch.
    * The rows of a prompt stay together when a generation batch is shuffled and split, so that an update step sees
      whole groups: groups are drawn at random, where TRL draws rows. A group is cut only where
      `per_device_train_batch_size` is no multiple of it; below `num_generations` there is little left to share.
    * Generation runs each prompt once and drops rows as they end (`shared_generation`).
    * Log-probabilities come from `shared_prefix`.
    * Image features of the reference are kept for the run, and the policy's where nothing of the tower is trained, up
      to `FEATURES_MB` (the least used go first); not the reference's where `sync_ref_model` changes it.
    * Rows that cannot move the policy are left out of the update: those without an unmasked token, and, when beta is 0
      and there is no entropy bonus and no quantile of entropies over the batch (`top_entropy_quantile` of 1), those
      with an advantage of exactly 0 (but under VESPO, which logs a figure of them). Their terms of the loss and of its
      gradient are 0, and they go on counting in its denominators. Where all are such, or all with an image, the
      shortest stays, so that every weight gets its gradient of 0 and the optimizer moves on as it would have. The
      logged entropy is then that of the rows computed.

    What cannot be shared (`sharing_limits`: tools, environments, a model that `supports` refuses, weights sharded over
    processes, ...) goes TRL's way, and one line on stderr says so; with vLLM, or generation settings only transformers
    knows, the same holds for generation alone.
    """

    processing_class: Any
    _buffered_inputs: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batch: SharedBatch | None = None
        self._kept_rows: Tensor | None = None
        self._old_logps: Tensor | None = None
        bare = self._bare(self.model)
        why = not_shared(self, self.accelerator.unwrap_model(self.model))
        self._shares = why is None
        not_here = not_generated(self, bare) if why is None else None
        self._generates = why is None and not_here is None
        if why is not None:
            self._say(f"Prompts are computed once per completion, TRL's way: {why}")
            return
        if not_here is not None:
            self._say(f"Prompts are shared in the update; generation goes TRL's way: {not_here}")
        size, group = self.args.per_device_train_batch_size, self.num_generations
        if size < group:
            self._say(
                f"per_device_train_batch_size ({size}) is below num_generations ({group}), so each prompt is computed "
                f"{-(-group // size)} times in an update; with {group} it is computed once."
            )
        self._tower_learns = tower_learns(bare)
        self._features = self._reference_features = FeatureStore(FEATURES_MB)
        _take_shared_calls(bare)
        if self.ref_model is not None:
            reference = self._bare(self.ref_model)
            _take_shared_calls(reference)
            # TRL's reference has the weights of the model's folder, which the policy may have been given others than.
            if not self._tower_learns and not same_tower(bare, reference):
                self._reference_features = FeatureStore(FEATURES_MB)

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, file=sys.stderr)

    def _bare(self, model: Any) -> Any:
        """The transformers model under wrappers and adapters."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    # Generation

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self._shares:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        processor = self.processing_class
        self.processing_class = Processed(processor)
        self._kept_rows = None
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.processing_class = processor
        # The pixels of the prompts are in the batch; what stands for them here is `Processed`'s.
        output = {name: value for name, value in output.items() if name not in ("pixel_values", "num_images")}
        return output | {"shared": self._batch}

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        if not self._shares:
            return super()._tokenize_prompts(prompts)
        firsts, owner = distinct(prompts)
        made = []
        for row in firsts:
            ids, images, fields = super()._tokenize_prompts([prompts[row]])
            made.append(processed(ids[0], images[0] if images else None, fields, self.accelerator.device))
        self._batch = SharedBatch(prompts=tuple(made), owner=tuple(owner))
        rows = [made[number] for number in owner]
        images = [prompt.images for prompt in rows] if any(prompt.images for prompt in made) else None
        # The loop of transformers wants the images of every row; ours takes those of the prompts.
        fields = {} if self._generates or self.use_vllm else joined(rows, token_types=True)
        return [prompt.ids for prompt in rows], images, fields

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        if self._generates:
            assert self._batch is not None
            prompts, sizes = self._batch.groups()
            prompt_ids, images = [prompt.ids for prompt in prompts], [prompt.images for prompt in prompts]
            multimodal_fields = joined(prompts, token_types=True)
            pixels = multimodal_fields.pop("pixel_values", None)
            with self._completing(prompts, sizes, encode=pixels is not None):
                return super()._generate_single_turn(  # type: ignore[no-any-return]
                    prompt_ids, images, multimodal_fields, num_generations, has_tool_images
                )
        return super()._generate_single_turn(  # type: ignore[no-any-return]
            prompt_ids, images, multimodal_fields, num_generations, has_tool_images
        )

    @contextmanager
    def _completing(self, prompts: list[Prompt], sizes: list[int], *, encode: bool) -> Iterator[None]:
        """Let the policy's `generate` complete each prompt several times."""
        model = self._bare(self.model_wrapped)

        def generate(*args: Any, **kwargs: Any) -> Any:
            if encode:
                with self.accelerator.autocast():
                    features = self._image_features(model, prompts) or encode_images(model, joined(prompts))
                kwargs["mm_encoder_outputs"] = {"image": as_encoder_output(model, features)}
            return type(model).generate(model, *args, custom_generate=several_of_each(sizes), **kwargs)

        model.generate = generate
        try:
            yield
        finally:
            del model.generate

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self._shares or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split(scored, scored["shared"].shuffled(), steps)
        return self._buffered_inputs[self._step % steps]

    # The update

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        if self._shares:
            self._batch = inputs["shared"]
            self._kept_rows = self._moving(inputs)
            self._old_logps = inputs.get("old_per_token_logps")
        return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]

    def _moving(self, inputs: Mapping[str, Any]) -> Tensor:
        """(B,) True for the rows that can move the policy; at least one is."""
        tokens = inputs["completion_mask"].sum(dim=1)
        moving: Tensor = tokens > 0
        if (
            self.beta == 0.0
            and not self._entropy_bonus_enabled
            and self.top_entropy_quantile == 1.0
            and self.loss_type != "vespo"
        ):
            moving = moving & (inputs["advantages"] != 0)
        if not moving.any():
            moving[tokens.argmin()] = True
        illustrated = torch.tensor(inputs["shared"].illustrated(), device=moving.device)
        if self._tower_learns and illustrated.any() and not (moving & illustrated).any():
            moving[tokens.masked_fill(~illustrated, tokens.max() + 1).argmin()] = True
        return moving

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **vision: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self._shares:
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **vision,
            )
        assert self._batch is not None
        total = len(input_ids)
        rows = list(range(total)) if self._kept_rows is None else self._kept_rows.nonzero().squeeze(1).tolist()
        parts = []
        for start in range(0, len(rows), batch_size or total):
            some = rows[start : start + (batch_size or total)]
            prompts, sizes = self._batch.take(some).groups()
            with self.accelerator.autocast():
                parts.append(
                    model(
                        shared_prompts={
                            "input_ids": input_ids[some],
                            "attention_mask": attention_mask[some],
                            "logits_to_keep": logits_to_keep,
                            "group_sizes": sizes,
                            "vision": joined(prompts),
                            "image_features": self._image_features(model, prompts),
                            "temperature": self.temperature,
                            "compute_entropy": compute_entropy,
                            "head_fp32": self.args.cast_lm_head_to_fp32,
                        }
                    )
                )
        logps = torch.cat([part[0] for part in parts])
        entropies = torch.cat([part[1] for part in parts]) if compute_entropy else None
        if len(rows) == total:
            return logps, entropies, None
        place = torch.tensor(rows, device=logps.device)
        # A ratio of 1 to the old policy, whatever the advantage of 0 is multiplied with.
        others = logps.new_zeros(total, logits_to_keep) if self._old_logps is None else self._old_logps.to(logps)
        logps = others.index_copy(0, place, logps)
        if entropies is not None:
            mask = attention_mask[place, -logits_to_keep:]
            mean = ((entropies * mask).sum() / mask.sum().clamp(min=1)).detach()
            entropies = mean.expand(total, logits_to_keep).index_copy(0, place, entropies)
        return logps, entropies, None

    def _image_features(self, model: Any, prompts: list[Prompt]) -> ImageFeatures | None:
        """Features that stay the same while the run lasts, or None where the tower has to run."""
        reference = model is self.ref_model or _without_adapter(self.accelerator.unwrap_model(model))
        if not any(prompt.images for prompt in prompts):
            return None
        if self._tower_learns and (not reference or self.args.sync_ref_model):
            return None
        bare, kept = self._bare(model), self._reference_features if reference else self._features
        return kept.get(prompts, lambda one: encode_images(bare, joined([one])), self.accelerator.device)


def _take_shared_calls(model: Any) -> None:
    """Let `model(shared_prompts=...)` run `shared_logps`.

    The call goes through the model's own entry, so that wrappers for distribution see a forward pass.
    """
    plain = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, shared_prompts: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if shared_prompts is None else shared_logps(self, **shared_prompts)

    model.forward = types.MethodType(forward, model)


def _without_adapter(model: Any) -> bool:
    """Whether a model with adapters stands as TRL's reference: all of them off, or its copy "ref" active."""
    if not hasattr(model, "get_base_model"):
        return False
    layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return bool(layer.disable_adapters or model.active_adapter == "ref")


class _PlainTrainer(ShowsOthers, AnswersBlank, CompletesOpenedReasoning, Dependable, MixedRowsTrainer):
    pass


class _SharingTrainer(ShowsOthers, AnswersBlank, CompletesOpenedReasoning, Dependable, SharedPromptTrainer):
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
        check_contrast([reward.name for reward in config.rewards], args)
        _forbid_vision_tokens(args, policy)
        log = RolloutLog(run.rollouts)
        rewards = [named(checked(reward.name, resolve_reward(reward.name)), reward.name) for reward in config.rewards]
        rewards[0] = named(log.watched(rewards[0]), config.rewards[0].name)
        trainer = (_SharingTrainer if config.sharing else _PlainTrainer)(
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
