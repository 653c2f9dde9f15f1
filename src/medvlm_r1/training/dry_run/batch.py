"""The shape of a training's steps, as TRL 1.16 and this project's trainer cut them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How a training is cut into steps. For SFT a group has one row, its answer."""

    samples: int
    """Questions of the data set."""
    rows: int
    """Rows of a forward and backward pass on a device (`per_device_train_batch_size`)."""
    accumulation: int
    """Passes of an optimizer step (`gradient_accumulation_steps`)."""
    group: int
    """Completions of a prompt (`num_generations`)."""
    processes: int = 1
    """Devices, each with a process."""
    passes_per_generation: int
    """Passes that one generation feeds (`steps_per_generation`)."""
    iterations: int = 1
    """Times a generation is used (`num_iterations`)."""
    epochs: float = 1.0
    keeps_rest: bool = False
    """An incomplete last batch is used (SFT)."""
    max_steps: int = -1
    """Steps when above 0; the epochs do not count then."""

    @property
    def generation_rows(self) -> int:
        """Completions of one generation, over all devices."""
        return self.rows * self.processes * self.passes_per_generation

    @property
    def generation_prompts(self) -> int:
        """Prompts of one generation, over all devices."""
        return self.generation_rows // self.group

    @property
    def passes_per_epoch(self) -> int:
        """Passes of an epoch on a device; of GRPO an incomplete last generation is dropped (TRL's `RepeatSampler`)."""
        if self.keeps_rest:
            return math.ceil(self.samples / self.generation_prompts)
        generations = self.samples // self.generation_prompts
        return generations * self.passes_per_generation * self.iterations

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, as transformers' `Trainer.set_initial_training_values` counts them."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * max(math.ceil(self.passes_per_epoch / self.accumulation), 1))

    @property
    def step_rows(self) -> int:
        """Completions of an optimizer step on a device."""
        return self.rows * self.accumulation

    @property
    def new_rows(self) -> float:
        """Completions that have to be generated for an optimizer step on a device."""
        return self.step_rows / self.iterations

    @property
    def step_prompts(self) -> float:
        """Prompts of an optimizer step, over all devices."""
        return self.new_rows * self.processes / self.group

    @property
    def epochs_done(self) -> float:
        """Times the data are gone through."""
        return self.steps * self.step_prompts / self.samples

    def prompts_in(self, rows: int) -> int:
        """Prompts that `rows` adjacent rows of a device belong to, groups whole where they can be."""
        return max(1, math.ceil(rows / self.group))

    def prompt_passes(self, *, shared: bool) -> float:
        """How often a prompt goes through the model in the passes of an optimizer step on a device."""
        return self.accumulation * float(self.prompts_in(self.rows) if shared else self.rows)

    def prefills(self, *, shared: bool) -> float:
        """How often a prompt goes through the model in the generation for an optimizer step on a device."""
        rows = self.rows * self.passes_per_generation
        computed = self.prompts_in(rows) if shared else rows
        return self.new_rows * computed / rows

    @property
    def scores_old_policy(self) -> bool:
        """Whether TRL scores the policy that generated once more: unless every update follows its own generation."""
        return self.accumulation % (self.passes_per_generation * self.iterations) != 0
