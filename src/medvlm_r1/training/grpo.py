"""Training with Group Relative Policy Optimization (GRPO; DeepSeekMath, arXiv 2402.03300).

The algorithm is that of TRL's `GRPOTrainer`. TRL runs a prompt and its images through the model once per completion.
`SharedPromptTrainer` runs them once per prompt, in generation and for the log-probabilities of the policy, the old
policy and the reference. The results equal TRL's up to the order of floating-point sums.

Image and video tokens are never sampled, and every rollout is written to `rollouts.jsonl`. A resumed run continues with
the same weights and the same data order. `sharing: off` selects TRL's own computation (`MixedRowsTrainer`).
"""

import functools
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages

from medvlm_r1.errors import UserError
from medvlm_r1.models.decoding.kv_cache import replaced_generate
from medvlm_r1.models.decoding.shared_generation import n_per_prompt
from medvlm_r1.models.load import Policy
from medvlm_r1.models.sharing.batch import (
    FeatureStore,
    Prompt,
    SharedBatch,
    blank_messages,
    distinct,
    is_sharded,
    joined,
    most_of_all,
    not_generated,
    not_shared,
    processed,
    split,
    tower_learns,
)
from medvlm_r1.models.sharing.forward import ImageFeatures, as_encoder_output, encode_images, shared_logps
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.rewards.open_answer import open_answer_with
from medvlm_r1.rewards.registry import checked
from medvlm_r1.training.callbacks import Evaluate, Progress, SamplerOrder
from medvlm_r1.training.config import OPEN_ANSWER, RunConfig
from medvlm_r1.training.counterfactual import CounterfactualImages, check_counterfactual
from medvlm_r1.training.dataset import check_boxes
from medvlm_r1.training.loop import train
from medvlm_r1.training.mixed_rows import MixedRowsTrainer, forbid_vision_tokens
from medvlm_r1.training.reliability.guard import ReliableTrainerMixin
from medvlm_r1.training.resampling import ResamplesGroups, balancing_weights, check_resampling
from medvlm_r1.training.run_folder import CompletesOpenedReasoning, RolloutLog, RunFolder

FEATURES_MB = 512.0
"""Maximum size in MB of the cache of image features that do not change during a run. It is in main memory."""


class SharedPromptTrainer(MixedRowsTrainer):
    """TRL's GRPO trainer, but each prompt and each image is computed once instead of once per completion.

    * The image processor runs once for each prompt of a generation batch.
    * Rows of a prompt stay together when a generation batch is shuffled and split, so an update step sees whole groups.
      TRL shuffles rows; this trainer shuffles groups. A group is split if `per_device_train_batch_size` is not a
      multiple of its size.
    * Generation runs each prompt once and drops finished rows (`models.decoding.shared_generation`).
    * Log-probabilities are computed by `models.sharing.forward`.
    * Image features that do not change during a run are kept in an LRU cache of `FEATURES_MB`: those of a frozen vision
      tower, and those of the reference. With `sync_ref_model` and a trained tower, nothing is cached.
    * Rows that cannot change the policy are skipped in the update: rows without an unmasked token, and rows with an
      advantage of exactly 0. The latter are skipped only if beta is 0, there is no entropy bonus,
      `top_entropy_quantile` is 1 and the loss is not VESPO (it logs a metric over them). Skipped rows contribute 0 to
      the loss and its gradient, and still count in its denominators. If all rows would be skipped, the shortest one is
      still computed. The same holds for all rows with images if the vision tower is trained. Every weight then gets a
      zero gradient, and the optimizer advances as in TRL. The logged entropy is that of the computed rows.

    Runs that cannot share prompts (`models.sharing.batch`: tools, environments, unsupported models, ...) are computed
    as in TRL, and one line on stderr gives the reason. With vLLM, or with generation settings that only transformers
    supports, only generation is computed as in TRL.
    """

    _buffered_inputs: Any
    without_sharing: type = MixedRowsTrainer
    """Class that the trainer changes to if prompts cannot be shared: the same mixins, without `SharedPromptTrainer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The batch being scored or trained on. TRL passes only tensors to `_get_per_token_logps_and_entropies`.
        self._batch: SharedBatch | None = None
        self._greedy: list[Prompt] = []
        bare = self._bare(self.model)
        reason = not_shared(self, self.accelerator.unwrap_model(self.model))
        if reason is not None:
            self._notice(f"Prompts are computed once per completion, TRL's way: {reason}")
            self.__class__ = self.without_sharing
            return
        reason = not_generated(self, bare)
        self.shares_generation = reason is None
        if reason is not None:
            self._notice(f"Prompts are shared in the update; generation goes TRL's way: {reason}")
        size, group = self.args.per_device_train_batch_size, self.num_generations
        if size < group:
            self._notice(
                f"per_device_train_batch_size ({size}) is below num_generations ({group}), so each prompt is computed "
                f"{-(-group // size)} times in an update; with {group} it is computed once."
            )
        self._tower_learns = tower_learns(bare)
        self._features = FeatureStore(FEATURES_MB)
        self._sharded = is_sharded(self)
        # Processor outputs for a blank image, because every process must run the tower and give it a gradient.
        self._blank: Mapping[str, Any] = {}
        if self._sharded or (self._tower_learns and self.accelerator.num_processes > 1):
            self._blank = joined([self._processed(blank_messages())])
        _accept_shared_prompts(bare)
        if self.ref_model is not None:
            _accept_shared_prompts(self._bare(self.ref_model))

    def _notice(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(line, file=sys.stderr)

    # Generation

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL runs the image processor once more over the images of all rows, unless their column is missing.
        output: dict[str, Any] = super()._generate_and_score_completions(_with_images_in_prompts(inputs))
        return output | {"shared": self._batch}

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        inputs = [{**row, **row.get(_COLUMNS, {})} for row in inputs]
        inputs = [{name: value for name, value in row.items() if name != _COLUMNS} for row in inputs]
        if self.log_completions and self.log_multimodal and _IMAGES[0] in inputs[0]:
            self._logs["images"].extend(gather_object([row[_IMAGES[0]] for row in inputs]))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _generate(self, prompts: list[Any]) -> Any:
        # `_tokenize_prompts` returns the `SharedBatch` instead of the images. TRL returns it here unchanged.
        *result, self._batch, tool_images = super()._generate(prompts)
        return (*result, None, tool_images)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        greedy, self.greedy_prompts = self.greedy_prompts, ()
        self._greedy = [self._processed(messages) for messages in greedy]
        firsts, owner = distinct(prompts)
        batch = SharedBatch(prompts=tuple(self._processed(prompts[row]) for row in firsts), owner=tuple(owner))
        return [batch.prompts[number].ids for number in owner], batch, {}

    def _processed(self, messages: Any) -> Prompt:
        ids, images, fields = super()._tokenize_prompts([messages])
        return processed(ids[0], images[0] if images else None, fields, self.accelerator.device)

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, has_tool_images: bool = False
    ) -> tuple[list[list[int]], Any]:
        batch: SharedBatch = images
        if self.shares_generation:
            prompts, sizes = batch.groups()
            prompts, count, greedy = [*prompts, *self._greedy], len(batch.owner), len(self._greedy)
            fields = joined(prompts, token_types=True)
            pixels = fields.pop("pixel_values", None)
            decode = n_per_prompt([*sizes, *[1] * greedy], greedy=greedy)
            model = self._bare(self.model_wrapped)
            with replaced_generate(model, self._completing(model, prompts, decode, encode=pixels is not None)):
                ids, logps = super()._generate_single_turn(
                    [prompt.ids for prompt in prompts], None, fields, num_generations
                )
            self.greedy_ids = ids[count:]
            return ids[:count], logps
        rows = [batch.prompts[number] for number in batch.owner]
        pictures = [prompt.images for prompt in rows] if any(prompt.images for prompt in rows) else None
        self._greedy_rows = [(prompt.ids, prompt.images) for prompt in self._greedy]
        # transformers needs the image tensors of every row; vLLM needs none of them.
        fields = {} if self.use_vllm else joined([*rows, *self._greedy], token_types=True)
        return super()._generate_single_turn(prompt_ids, pictures, fields, num_generations)  # type: ignore[no-any-return]

    def _completing(self, model: Any, prompts: list[Prompt], decode: Any, *, encode: bool) -> Callable[..., Any]:
        """The policy's `generate`, which completes the prompts with the function `decode`.

        It encodes the images too, because TRL calls it while sharded weights are gathered.
        """

        def generate(*args: Any, **kwargs: Any) -> Any:
            if encode:
                with self.accelerator.autocast():
                    features = self._image_features(model, prompts, gathered=True)
                    features = features or encode_images(model, joined(prompts))
                kwargs["mm_encoder_outputs"] = {"image": as_encoder_output(model, features)}
            return type(model).generate(model, *args, custom_generate=decode, **kwargs)

        return generate

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            scored = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split(scored, scored["shared"].shuffled(), steps)
        return self._buffered_inputs[self._step % steps]

    # The update

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        moving = tuple(self._moving(inputs).nonzero().squeeze(1).tolist())
        self._batch = replace(inputs["shared"], moving=moving, old_logps=inputs.get("old_per_token_logps"))
        return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]

    def _moving(self, inputs: Mapping[str, Any]) -> Tensor:
        """Mask of the rows that can change the policy: (B,) bool. At least one row is True."""
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
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        assert self._batch is not None
        total = len(input_ids)
        rows = list(range(total) if self._batch.moving is None else self._batch.moving)
        old_logps = self._batch.old_logps
        results = []
        for start in range(0, len(rows), batch_size or total):
            chunk = rows[start : start + (batch_size or total)]
            prompts, sizes = self._batch.take(chunk).groups()
            with self.accelerator.autocast():
                results.append(
                    model(
                        shared_prompts={
                            "input_ids": input_ids[chunk],
                            "attention_mask": attention_mask[chunk],
                            "logits_to_keep": logits_to_keep,
                            "group_sizes": sizes,
                            "vision": joined(prompts),
                            "image_features": self._image_features(model, prompts),
                            "blank": self._blank,
                            "temperature": self.temperature,
                            "compute_entropy": compute_entropy,
                            "head_fp32": self.args.cast_lm_head_to_fp32,
                        }
                    )
                )
        logps = torch.cat([result[0] for result in results])
        entropies = torch.cat([result[1] for result in results]) if compute_entropy else None
        if len(rows) == total:
            return logps, entropies, None
        index = torch.tensor(rows, device=logps.device)
        # Skipped rows get a probability ratio of 1 to the old policy. It is multiplied by their advantage of 0.
        others = logps.new_zeros(total, logits_to_keep) if old_logps is None else old_logps.to(logps)
        logps = others.index_copy(0, index, logps)
        if entropies is not None:
            mask = attention_mask[index, -logits_to_keep:]
            mean = ((entropies * mask).sum() / mask.sum().clamp(min=1)).detach()
            entropies = mean.expand(total, logits_to_keep).index_copy(0, index, entropies)
        return logps, entropies, None

    def _image_features(self, model: Any, prompts: list[Prompt], *, gathered: bool = False) -> ImageFeatures | None:
        """Cached image features; None if there are no images, or if the tower must run because its output can change.

        Args:
            model: The wrapped model; if `gathered`, the bare model.
            prompts: The prompts. Those without images have no features.
            gathered: Whether every process has all weights. Processes may then make different calls.
        """
        reference = model is self.ref_model or _without_adapter(self.accelerator.unwrap_model(model))
        if self._tower_learns and (not reference or self.args.sync_ref_model):
            return None
        together = self._sharded and not gathered
        if not together and not any(prompt.images for prompt in prompts):
            return None
        # TRL loads the reference from the model's folder, so its tower may differ from that of the policy.
        tower = "reference " if model is self.ref_model else ""

        def encode(vision: Mapping[str, Any]) -> ImageFeatures:
            if not together:
                return encode_images(self._bare(model), vision)
            result: ImageFeatures = model(shared_images=vision)
            return result

        if together:
            absent = len(self._features.missing(prompts, tower=tower))
            for _ in range(most_of_all(self.accelerator, absent) - absent):
                with torch.no_grad():
                    encode(self._blank)
        return self._features.get(
            prompts, lambda prompt: encode(joined([prompt])), self.accelerator.device, tower=tower
        )


_IMAGES = ("images", "image")
_COLUMNS = "image columns"


def _with_images_in_prompts(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy the images of each row into its chat messages, and move its image columns to the key `_COLUMNS`."""
    result = []
    lists = [row["images"] if "images" in row else [row["image"]] if row.get("image") else [] for row in inputs]
    illustrated = any(lists)
    for row, images in zip(inputs, lists, strict=True):
        columns = {name: row[name] for name in _IMAGES if name in row}
        rest = {name: value for name, value in row.items() if name not in _IMAGES}
        prompt = prepare_multimodal_messages(row["prompt"], images=images or []) if illustrated else row["prompt"]
        result.append(rest | {"prompt": prompt, _COLUMNS: columns})
    return result


def _accept_shared_prompts(model: Any) -> None:
    """Make `model(shared_prompts=...)` run `shared_logps`, and `model(shared_images=...)` run `encode_images`.

    `forward` is patched because DDP, FSDP, DeepSpeed and accelerate handle only calls of the wrapped model.
    """
    plain = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        shared_prompts: dict[str, Any] | None = None,
        shared_images: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if shared_images is not None:
            return encode_images(self, shared_images)
        return plain(*args, **kwargs) if shared_prompts is None else shared_logps(self, **shared_prompts)

    model.forward = types.MethodType(forward, model)


def _without_adapter(model: Any) -> bool:
    """Whether a model with adapters acts as TRL's reference: adapters are disabled, or the adapter "ref" is active."""
    if not hasattr(model, "get_base_model"):
        return False
    layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return bool(layer.disable_adapters or model.active_adapter == "ref")


class _PlainTrainer(
    ResamplesGroups, CounterfactualImages, CompletesOpenedReasoning, ReliableTrainerMixin, MixedRowsTrainer
):
    pass


class _SharingTrainer(
    ResamplesGroups, CounterfactualImages, CompletesOpenedReasoning, ReliableTrainerMixin, SharedPromptTrainer
):
    without_sharing = _PlainTrainer


def train_grpo(config: RunConfig, *, progress: Progress | None = None, evaluate: Evaluate | None = None) -> Path:
    """Train with GRPO. The same call resumes an interrupted run, and returns at once if the run is complete.

    Args:
        config: A configuration of method "grpo".
        progress: Receives every step. It replaces the trainer's own progress bar and printed logs.
        evaluate: Called every `config.evaluate_every` steps with the policy and the step.

    Returns:
        The folder of the final model, `<out>/model`.

    Raises:
        UserError: The run folder belongs to another run, the data are unusable, or TRL rejects the configuration.
        KeyboardInterrupt: Ctrl-C stopped the run. The message explains how to resume.
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
        names = [reward.name for reward in config.rewards]
        check_boxes(names, train_dataset)
        check_counterfactual(names, args)
        if config.resample_dead_groups:
            check_resampling(names, args)
        forbid_vision_tokens(args, policy)
        log = RolloutLog(run.rollouts)
        functions = {name: resolve_reward(name) for name in names}
        if OPEN_ANSWER in functions:
            functions[OPEN_ANSWER] = open_answer_with(config.data.synonyms)
        first, *others = (checked(name, function) for name, function in functions.items())
        trainer = (_SharingTrainer if config.sharing else _PlainTrainer)(
            model=policy.model,
            processing_class=policy.processor,
            reward_funcs=[log.watched(first), *others],
            args=args,
            train_dataset=train_dataset,
            callbacks=[SamplerOrder(), *callbacks, log],
            **rest,
        )
        # TRL takes the names of the functions. Rewards are logged under their names in the configuration.
        trainer.reward_func_names = names
        trainer.resample_dead_groups = config.resample_dead_groups
        if config.balance:
            ids, values = (train_dataset.with_format(None)[column] for column in ("sample_id", config.balance))
            factors = balancing_weights(values)
            trainer.advantage_weights = {name: factors[value] for name, value in zip(ids, values, strict=True)}
        log.attach(trainer)
        _check_unshared(trainer)
        return trainer

    return train(config, build, progress=progress, evaluate=evaluate)


def _check_unshared(trainer: Any) -> None:
    """Reject data that mix questions with and without images if weights are sharded and prompts are not shared.

    A process whose rows have no image would not run the vision tower, and the other processes would wait forever.
    """
    rows = trainer.train_dataset.with_format(None).select_columns("images")
    if (
        is_sharded(trainer)
        and not isinstance(trainer, SharedPromptTrainer)
        and len({bool(row["images"]) for row in rows}) > 1
    ):
        raise UserError(
            "Some questions have images and others have none. With sharded weights (FSDP, ZeRO-3) this needs shared "
            "prompts (sharing: on)."
        )
