"""How TRL 1.16 and this project's trainer divide a training into optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Size of an optimizer step and number of steps. For SFT a group has one row: the answer."""

    samples: int
    """Questions in the data set."""
    rows: int
    """Rows per forward and backward pass on a device (`per_device_train_batch_size`)."""
    accumulation: int
    """Passes per optimizer step (`gradient_accumulation_steps`)."""
    group: int
    """Completions per prompt (`num_generations`)."""
    processes: int = 1
    """Devices, one process each."""
    passes_per_generation: int
    """Passes that use the completions of one generation (`steps_per_generation`)."""
    iterations: int = 1
    """Number of times each generation is used (`num_iterations`)."""
    epochs: float = 1.0
    keeps_rest: bool = False
    """Whether an incomplete last batch is used (SFT)."""
    max_steps: int = -1
    """Number of steps if above 0; it overrides `epochs`."""

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
        """Passes per epoch on a device. GRPO drops an incomplete last generation (TRL's `RepeatSampler`)."""
        if self.keeps_rest:
            return math.ceil(self.samples / self.generation_prompts)
        generations = self.samples // self.generation_prompts
        return generations * self.passes_per_generation * self.iterations

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, as in transformers' `Trainer.set_initial_training_values`."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * max(math.ceil(self.passes_per_epoch / self.accumulation), 1))

    @property
    def step_prompts(self) -> float:
        """New prompts per optimizer step, over all devices."""
        return self.rows * self.accumulation * self.processes / (self.iterations * self.group)

    @property
    def epochs_done(self) -> float:
        """Number of passes over the data."""
        return self.steps * self.step_prompts / self.samples

    def prompts_in(self, rows: int) -> int:
        """Number of prompts among adjacent rows of a device."""
        return max(1, math.ceil(rows / self.group))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Settings of a training that its memory depends on."""

    batch: Batch
    completion: int
    """Tokens per completion."""
    reference: bool
    """Whether a reference model is used (beta above 0)."""
    generates: bool = True
    """Whether completions are generated; False for SFT."""
    vllm: bool = False
    """Whether vLLM generates, with its own memory for weights and KV cache."""
    checkpointing: bool = False
    """Whether layers are recomputed in the backward pass (`gradient_checkpointing`)."""
