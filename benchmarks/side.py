"""One side of the comparison, in a process of its own: a trainer that takes a step whenever it is told to."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks import presets
from benchmarks.child import reported
from benchmarks.counting import Counter, operations
from benchmarks.meter import forget_peak, now, peak_memory
from benchmarks.presets import Preset
from benchmarks.replay import Completions, replaying
from medvlm_r1.models.load import Policy, load_policy, quiet_bars
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.training.grpo import SharedPromptTrainer

Written = Mapping[tuple[int, ...], list[list[int]]] | None
"""Completions by prompt, or None for random ones."""
OURS = "ours"
TRL = "trl"


def serve(
    pipe: Any,
    preset: Preset,
    model: str,
    side: str,
    micro: int,
    steps: int,
    written: Mapping[tuple[int, ...], Any] | None,
) -> None:
    """Makes the trainer, then takes one step for every message: the name of a file counts, and keeps the gradients.

    Args:
        pipe: Where messages come from and figures go to; the first is sent when the trainer stands.
        preset: What is measured.
        model: Its model, as `load_policy` takes it.
        side: `OURS` or `TRL`.
        micro: Rows of a forward pass.
        steps: Steps taken at most.
        written: What generation is to write.
    """
    with reported(pipe), quiet_bars(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        _train(pipe, preset, model, side, micro, steps, written, folder)


def _train(pipe: Any, preset: Preset, model: str, side: str, micro: int, steps: int, written: Any, folder: str) -> None:
    policy = load_policy(model, dtype=preset.dtype, device="cpu")
    config = GRPOConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=preset.rows // micro,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        lr_scheduler_type="constant",
        bf16=preset.dtype == "bfloat16" and torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        **presets.options(preset),
    )
    from datasets import Dataset

    table = presets.rows(preset, policy, steps)
    peft = None
    if preset.lora:
        from peft import LoraConfig

        peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = (SharedPromptTrainer if side == OURS else GRPOTrainer)(
        model=policy.model,
        processing_class=policy.processor,
        args=config,
        reward_funcs=_rewards(preset),
        train_dataset=Dataset.from_list([{"row": i} for i in range(len(table))]).with_transform(
            lambda batch: {key: [table[i][key] for i in batch["row"]] for key in table[0]}
        ),
        peft_config=peft,
    )
    trainer.log = lambda *_, **__: None
    replaying(_bare(trainer), _completions(preset, policy, written))
    trainer.add_callback(_Turns(pipe, trainer))
    pipe.send({"ready": True})
    trainer.train()


def _bare(trainer: Any) -> Any:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _completions(preset: Preset, policy: Policy, written: Written) -> Completions:
    if written is not None:
        return lambda prompt: written[tuple(prompt)]
    return lambda prompt: presets.random_completions(preset, policy, prompt)


def _rewards(preset: Preset) -> list[Any]:
    if preset.shape is None:
        return [resolve_reward("accuracy_paper"), resolve_reward("format_paper")]
    return [varied_rewards]


def varied_rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A number of each completion's own, so that every row has an advantage and the gradient is not 0."""
    return [float(np.random.default_rng(ids).random()) for ids in completion_ids]


class _Turns(TrainerCallback):  # type: ignore[misc]
    """Waits for the word before each step, times it and reports."""

    def __init__(self, pipe: Any, trainer: Any) -> None:
        self._pipe, self._trainer = pipe, trainer
        self._seconds = 0.0
        self._logps: dict[tuple[int, ...], list[float]] = {}
        self._counted: dict[str, Any] = {}
        self._keep: str | None = None
        self._stack = ExitStack()
        plain, scored = trainer._generate, trainer._get_per_token_logps_and_entropies

        def generate(*args: Any, **kwargs: Any) -> Any:
            counter = self._counted.get("counter")
            if counter is not None:
                counter.phase = "generation"
                before = self._counted["operations"].get_total_flops()
            begun = now()
            result = plain(*args, **kwargs)
            self._seconds += now() - begun
            if counter is not None:
                counter.phase = "update"
                self._counted["generation"] = self._counted["operations"].get_total_flops() - before
            return result

        def score(model: Any, ids: Any, mask: Any, kept: int, *args: Any, **kwargs: Any) -> Any:
            result = scored(model, ids, mask, kept, *args, **kwargs)
            if self._keep is not None and result[0].requires_grad:
                for row, real, values in zip(
                    ids.cpu(), mask.cpu().bool(), result[0].detach().float().cpu(), strict=True
                ):
                    self._logps[tuple(row[real].tolist())] = values[real[-kept:]].tolist()
            return result

        trainer._generate, trainer._get_per_token_logps_and_entropies = generate, score

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._keep = self._pipe.recv()
        if self._keep is not None:
            models = [_bare(self._trainer)] + [model for model in [self._trainer.ref_model] if model is not None]
            self._counted = {"counter": Counter(*models), "operations": operations()}
            self._stack.enter_context(self._counted["operations"])
        elif state.global_step == 1:
            forget_peak()
        self._seconds = 0.0
        self._begun = now()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self._keep is not None:
            self._stack.close()
            grads = {n: p.grad.float().contiguous() for n, p in model.named_parameters() if p.grad is not None}
            save_file(grads, self._keep)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = now() - self._begun
        figures: dict[str, Any] = {"generation": self._seconds, "update": step - self._seconds, "step": step}
        if self._keep is not None:
            counter, total = self._counted["counter"], self._counted["operations"].get_total_flops()
            counter.remove()
            generation = self._counted["generation"]
            figures = {
                "tokens": counter.tokens,
                "images": counter.images,
                "operations": {"generation": generation, "update": total - generation},
                "logps": self._logps,
            }
            self._counted, self._logps = {}, {}
        figures["memory"] = peak_memory()
        self._pipe.send(figures)
