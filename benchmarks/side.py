"""One side of the comparison, in its own process: a trainer that takes a step for every message, and its work."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from math import prod
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks import presets
from benchmarks.presets import Preset
from benchmarks.process import now, peak_memory, reported, reset_peak
from benchmarks.replay import Completions, replaying
from medvlm_r1.models.load import Policy, load_policy, quiet_bars
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.training.grpo import SharedPromptTrainer

Written = Mapping[tuple[int, ...], list[list[int]]] | None
"""Completions by prompt, or None for random ones."""
OURS = "ours"
TRL = "trl"


def serve(pipe: Any, preset: Preset, model: str, side: str, micro: int, steps: int, written: Written) -> None:
    """Make the trainer, then take one step per message.

    If a message is a file, the step is counted instead of timed, and its gradients are saved to the file.

    Args:
        pipe: Receives messages and sends figures; the first is sent when the trainer is ready.
        preset: The preset.
        model: Model of the preset, in a form that `load_policy` accepts.
        side: `OURS` or `TRL`.
        micro: Rows per forward pass.
        steps: Maximum number of steps.
        written: The completions that generation returns; None for random tokens.
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
        reward_funcs=[varied_rewards] if preset.shape else [*map(resolve_reward, ("accuracy_paper", "format_paper"))],
        train_dataset=Dataset.from_list([{"row": i} for i in range(len(table))]).with_transform(
            lambda batch: {key: [table[i][key] for i in batch["row"]] for key in table[0]}
        ),
        peft_config=peft,
    )
    trainer.log = lambda *_, **__: None
    replaying(_bare(trainer), _completions(preset, policy, written))
    trainer.add_callback(_StepPerMessage(pipe, trainer))
    pipe.send({"ready": True})
    trainer.train()


def _bare(trainer: Any) -> Any:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _completions(preset: Preset, policy: Policy, written: Written) -> Completions:
    if written is not None:
        return lambda prompt: written[tuple(prompt)]
    return lambda prompt: presets.random_completions(preset, policy, prompt)


def varied_rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A different number for each completion, so that every row has an advantage and the gradient is not 0."""
    return [float(np.random.default_rng(ids).random()) for ids in completion_ids]


class _StepPerMessage(TrainerCallback):  # type: ignore[misc]
    """Wait for a message before each step, time the step and send its figures."""

    def __init__(self, pipe: Any, trainer: Any) -> None:
        self._pipe, self._trainer = pipe, trainer
        self._seconds = 0.0
        self._logps: dict[tuple[int, ...], list[float]] = {}
        self._counter: Counter | None = None
        self._gradients: str | None = None
        plain, scored = trainer._generate, trainer._get_per_token_logps_and_entropies

        def generate(*args: Any, **kwargs: Any) -> Any:
            start = now()
            with nullcontext() if self._counter is None else self._counter.generation():
                result = plain(*args, **kwargs)
            self._seconds += now() - start
            return result

        def score(model: Any, ids: Any, mask: Any, n_kept: int, *args: Any, **kwargs: Any) -> Any:
            result = scored(model, ids, mask, n_kept, *args, **kwargs)
            if self._counter is not None and result[0].requires_grad:
                rows = zip(ids.cpu(), mask.cpu().bool(), result[0].detach().float().cpu(), strict=True)
                for row, real, values in rows:
                    self._logps[tuple(row[real].tolist())] = values[real[-n_kept:]].tolist()
            return result

        trainer._generate, trainer._get_per_token_logps_and_entropies = generate, score

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._gradients = self._pipe.recv()
        if self._gradients is not None:
            reference = self._trainer.ref_model
            self._counter = Counter(_bare(self._trainer), *([] if reference is None else [reference]))
        elif state.global_step == 1:
            reset_peak()
        self._seconds = 0.0
        self._start = now()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self._counter is not None:
            self._counter.close()
            grads = {n: p.grad.float().contiguous() for n, p in model.named_parameters() if p.grad is not None}
            save_file(grads, str(self._gradients))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = now() - self._start
        figures: dict[str, Any] = {"generation": self._seconds, "update": step - self._seconds, "step": step}
        if self._counter is not None:
            figures = {name: getattr(self._counter, name) for name in ("tokens", "images", "operations")}
            figures["logps"], self._logps, self._counter = self._logps, {}, None
        figures["memory"] = peak_memory()
        self._pipe.send(figures)


aten = torch.ops.aten


class Counter:
    """Count tokens through the language model, images through the tower, and operations, in generation and elsewhere.

    Args:
        models: Qwen2-VL models: the policy, and the reference if it is a separate model.
    """

    def __init__(self, *models: Any) -> None:
        self._phase = "update"
        self.tokens, self.images, self.operations = ({"generation": 0, "update": 0} for _ in range(3))
        self._stack = ExitStack()
        self._flops = self._stack.enter_context(operations())
        for model in models:
            for module, hook in ((model.model.language_model, self._language), (model.model.visual, self._tower)):
                self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _language(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        self.tokens[self._phase] += rows * length

    def _tower(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        self.images[self._phase] += len(grid)

    @contextmanager
    def generation(self) -> Iterator[None]:
        """Count the work within the context as generation."""
        self._phase, before = "generation", self._flops.get_total_flops()
        yield
        self._phase = "update"
        self.operations["generation"] += self._flops.get_total_flops() - before

    def close(self) -> None:
        """Stop counting."""
        self._stack.close()
        self.operations["update"] = self._flops.get_total_flops() - self.operations["generation"]


def _attention(query: Any, key: Any, value: Any, *args: Any, products: int, causal: bool) -> int:
    batch, heads, queries, width = query
    return int(products * 2 * batch * heads * queries * key[2] * width * (0.5 if causal else 1))


def _forward(query: Any, key: Any, value: Any, dropout: float = 0, causal: bool = False, **_: Any) -> int:
    return _attention(query, key, value, products=2, causal=causal)


def _backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **_: Any) -> int:
    # Scores once more, then the gradients of values, scores, queries and keys.
    return _attention(query, key, value, products=5, causal=bool(rest[3]))


def _linear(rows: Any, weight: Any, *args: Any, **_: Any) -> int:
    return int(2 * prod(rows) * weight[0])


def operations() -> FlopCounterMode:
    """Count the floating-point operations of matrix products; a multiplication and an addition are two.

    PyTorch's counter lacks its attention on CPUs and oneDNN's products. These are added. Causal attention counts half.
    """
    names = "_scaled_dot_product_flash_attention_for_cpu"
    known: dict[Any, Callable[..., int]] = {
        getattr(aten, names): _forward,
        getattr(aten, f"{names}_backward"): _backward,
        torch.ops.mkldnn._linear_pointwise: _linear,
    }
    return FlopCounterMode(display=False, custom_mapping=known)


def matrix_peak(dtype: torch.dtype, device: torch.device, size: int = 2048, tries: int = 5) -> float:
    """Floating-point operations per second of the fastest of a few large matrix products."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(tries + 1):
        start = now()
        a @ b
        best = min(best, now() - start)
    return 2 * size**3 / best
