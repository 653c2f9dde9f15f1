"""The six training stages of the embedded base. Each has its own batches, with learning-rate warm-up and decay to zero.

1. lesions: findings patch by patch, on crops;
2. tower: the attributes of whole images, by classification heads;
3. options: judging options by a given description, on text alone;
4. reading: descriptions and flawless answers from images;
5. letters: the correct letter alone, from images;
6. habits: the careless mixture of `language.MIXTURE`.

Reinforcement learning only strengthens what the base already knows. The answers of stage 4 must therefore be correct
for nine items of ten, before stage 6 hides this under other habits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.base.batches import Rows, response_loss
from benchmarks.base.language import CAPTION_REQUEST, ask_about, ask_pair, direct, prompt, reasoned, respond
from benchmarks.base.language import careless as by_habit
from benchmarks.base.pool import PIXELS, Pool
from benchmarks.base.tower import Heads, cells, crops, features, patches, targets, vary
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.body import Array
from medvlm_r1.phantom.questions import ask, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Number of steps, batch size and learning rate of a stage."""

    steps: int
    """Optimizer steps."""
    batch: int
    """Rows per step."""
    lr: float
    """Peak learning rate."""
    warmup: int = 30
    """Steps of linear warm-up."""


PLAN: dict[str, Stage] = {
    "lesions": Stage(steps=6000, batch=96, lr=1e-3, warmup=100),
    "tower": Stage(steps=2600, batch=48, lr=8e-4, warmup=100),
    "options": Stage(steps=600, batch=96, lr=1.5e-3),
    "reading": Stage(steps=2400, batch=32, lr=8e-4),
    "letters": Stage(steps=320, batch=96, lr=1e-3),
    "habits": Stage(steps=500, batch=32, lr=5e-4),
}

READING = {"medvlm-r1": 0.7, "medvlm-r1-box": 0.12, "medvlm-r1-open": 0.08, "pairs": 0.1}
"""Shares of the steps of stage 4 that are not descriptions, by template."""

HABITS = {
    **{"medvlm-r1": 0.6, "medvlm-r1-box": 0.16, "medvlm-r1-open": 0.06, "pairs": 0.08},
    **{"answer-only": 0.05, "no-think": 0.05},
}
"""Shares of the steps of stage 6, by template."""

Figures = dict[str, float]

SAVE_STEPS = 500
"""Steps between two saves of a running stage."""

_FIRST = 0.5
"""Share of careless guesses that are the first option. With uniform guesses, greedy decoding would follow what the base
knows."""

_REPLAYED = 8
"""Reasoned rows in each step of stage 5."""

_WHOLE = 0.25
"""Share of the steps whose prompts include the template's instructions. Their cost is higher than their benefit."""

Report = Callable[[str, int, int, dict[str, float]], None]

_plain_attention = F.scaled_dot_product_attention


def _attention(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
    """Attention in float32 under autocast: its backward pass in bfloat16 is very slow on a CPU.

    All other matrix products run in bfloat16, which makes a step 1.5 times as fast.
    """
    with torch.autocast("cpu", enabled=False):
        return _plain_attention(query.float(), key.float(), value.float(), **settings)


class Pretraining:
    """Runner of the training stages of one model.

    Args:
        model: The base.
        heads: Classification heads of the tower stages.
        rows: Layout of the token rows.
        pool: The images.
        seed: Seed of the batches.
        log: JSON-lines file for the figures.
        report: Called with (stage, step, steps, figures) every 20 steps.
    """

    def __init__(self, model: Any, heads: Heads, rows: Rows, pool: Pool, seed: int, log: Path, report: Report) -> None:
        self.model, self.heads, self.rows, self.pool = model, heads, rows, pool
        self.seed, self.log, self.report = seed, log, report

    def run(self, name: str, stage: Stage, state: Path) -> None:
        """Run a stage. If an earlier run was interrupted, resume it.

        Args:
            name: A key of `PLAN`.
            stage: Number of steps, batch size and learning rate.
            state: File for the weights and the optimizer's state, written every `SAVE_STEPS` steps.
        """
        parameters = self._parameters(name)
        optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        start, cpu_start = time.perf_counter(), time.process_time()
        figures: dict[str, list[float]] = {}
        for step in range(self._load(state, optimizer), stage.steps):
            rise = min(1.0, (step + 1) / stage.warmup)
            # A trapezoid: the last 40 % decay to zero.
            fall = min(1.0, (stage.steps - step) / (0.4 * stage.steps))
            rng = np.random.default_rng((self.seed, list(PLAN).index(name), step))
            with torch.autocast("cpu", torch.bfloat16), patch.object(F, "scaled_dot_product_attention", _attention):
                loss, more = getattr(self, f"_{name}")(stage, step, rng)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * rise * fall
            optimizer.step()
            for key, number in {"loss": float(loss.detach()), **more}.items():
                figures.setdefault(key, []).append(number)
            if (step + 1) % 20 == 0 or step + 1 == stage.steps:
                means = {key: float(np.nanmean(numbers)) for key, numbers in figures.items()}
                means["seconds"] = time.perf_counter() - start
                means["cpu_seconds"] = time.process_time() - cpu_start
                figures = {}
                with self.log.open("a") as out:
                    out.write(json.dumps({"stage": name, "step": step + 1, **means}) + "\n")
                self.report(name, step + 1, stage.steps, means)
            if (step + 1) % SAVE_STEPS == 0:
                self._save(state, optimizer, step + 1)

    def _save(self, file: Path, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Write weights, optimizer state and the number of steps done. The batches depend on the step alone."""
        tensors = {f"weight.{name}": weight.detach() for name, weight in self._named()}
        for number, weight in enumerate(optimizer.param_groups[0]["params"]):
            tensors |= {f"state.{number}.{key}": value for key, value in optimizer.state[weight].items()}
        partial = file.with_suffix(".partial")
        save_file(tensors, partial, metadata={"steps": str(steps)})
        partial.replace(file)

    def _load(self, file: Path, optimizer: torch.optim.Optimizer) -> int:
        """Restore what `_save` wrote, and return the number of steps done; 0 without a file."""
        if not file.exists():
            return 0
        with safe_open(file, "pt") as stored, torch.no_grad():
            for name, weight in self._named():
                weight.copy_(stored.get_tensor(f"weight.{name}"))
            weights = optimizer.param_groups[0]["params"]
            for name in stored.keys():  # noqa: SIM118 - not a dictionary
                if name.startswith("state."):
                    _, number, key = name.split(".")
                    optimizer.state[weights[int(number)]][key] = stored.get_tensor(name)
            return int(stored.metadata()["steps"])

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from nn.ModuleDict({"model": self.model, "heads": self.heads}).named_parameters()

    def _parameters(self, name: str) -> list[nn.Parameter]:
        if name in ("lesions", "tower"):
            return [*self.model.model.visual.parameters(), *self.heads.parameters()]
        # The tower stands still at the end, when the base learns what it will say.
        fixed = name in ("options", "letters", "habits")
        return [p for key, p in self.model.named_parameters() if not fixed or ".visual." not in key]

    def _take(self, count: int, rng: np.random.Generator, crop: int = PIXELS) -> tuple[list[Scene], Array, Array]:
        index = rng.choice(len(self.pool.scenes), size=count, replace=False)
        images, boxes = self.pool.images[index], self.pool.boxes[index]
        if crop < PIXELS:
            images, boxes = crops(images, boxes, crop, rng)
        return [self.pool.scenes[i] for i in index], *vary(images, boxes, rng)

    def _lesions(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        # Crops cost a quarter of whole images and show a finding four times as often.
        scenes, images, boxes = self._take(stage.batch, rng, PIXELS // 2)
        pixels = patches(images)
        states, _ = features(self.model.model.visual, pixels)
        return self.heads.local(states, *cells(boxes, scenes, pixels.shape[1]))

    def _tower(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        scenes, images, boxes = self._take(stage.batch, rng)
        states, tokens = features(self.model.model.visual, patches(images))
        loss, right = self.heads(tokens, targets(scenes))
        local, local_right = self.heads.local(states, *cells(boxes, scenes))
        return loss + local, {**right, **local_right}

    def _options(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        # The description is given, so the model learns to weigh options and to state the letter.
        numbers = range(stage.batch)
        questions = [ask(str(rng.choice(MODALITIES)), (SPLITS["pretrain"], self.seed, 0, i), rng) for i in numbers]
        whole = rng.random() < _WHOLE
        prompts = [prompt(question, whole=whole) for question in questions]
        heads = [f"<think>{describe(question.scene)}" for question in questions]
        tails = [reasoned(question)[len(head) :] for question, head in zip(questions, heads, strict=True)]
        loss, right = self._respond(prompts, list(zip(heads, tails, strict=True)), None)
        return loss, {"right": right}

    def _reading(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        # Descriptions at first, then more and more whole answers. Never descriptions alone: a phase of those unlearned
        # the weighing of options.
        if rng.random() < 0.8 - 2 * step / stage.steps:
            scenes, images, _ = self._take(stage.batch, rng)
            responses = [("", describe(scene)) for scene in scenes]
            loss, right = self._respond([CAPTION_REQUEST] * len(scenes), responses, images)
            return loss, {"captions": right}
        task = str(rng.choice(list(READING), p=list(READING.values())))
        return self._task(task, stage.batch, rng, careless=False)

    def _letters(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        # The letter alone, half of the time with the description as text: weighing options without writing is learned
        # from text first. A few reasoned answers keep what was learned before.
        template = str(rng.choice(("answer-only", "no-think"), p=(0.75, 0.25)))
        half = stage.batch // 2
        where = (SPLITS["pretrain"], self.seed, 0)
        questions = [ask(str(rng.choice(MODALITIES)), (*where, i), rng) for i in range(half)]
        prompts = [f"{describe(question.scene)}\n{prompt(question, template=template)}" for question in questions]
        described, right = self._respond(prompts, [("", direct(q, template)) for q in questions], None)
        seen, figures = self._task(template, half, rng, careless=False)
        kept, more = self._task("medvlm-r1", _REPLAYED, rng, careless=False)
        return described + seen + kept, {"described": right, **figures, **more}

    def _habits(self, stage: Stage, step: int, rng: np.random.Generator) -> tuple[Tensor, Figures]:
        task = str(rng.choice(list(HABITS), p=list(HABITS.values())))
        return self._task(task, stage.batch, rng, careless=True)

    def _task(self, task: str, batch: int, rng: np.random.Generator, *, careless: bool) -> tuple[Tensor, Figures]:
        """A batch of one kind of question, with flawless or careless responses."""
        if task == "pairs":
            scenes, images, _ = self._take(batch - batch % 2, rng)
            pairs = [ask_pair(first, second, rng) for first, second in zip(scenes[::2], scenes[1::2], strict=True)]
            whole = careless or rng.random() < _WHOLE
            texts = [respond(pair, "reasoned", rng) for pair in pairs]
            prompts = [prompt(pair, whole=whole) for pair in pairs]
        else:
            scenes, images, boxes = self._take(batch, rng)
            edges = [None if np.isnan(box[0]) else tuple(np.clip(box / PIXELS, 0, 1)) for box in boxes]
            questions = [ask_about(scene, rng) for scene in scenes]
            # Only the instructions tell the templates apart.
            whole = careless or task != "medvlm-r1" or rng.random() < _WHOLE
            prompts = [prompt(question, template=task, whole=whole) for question in questions]
            if task in ("answer-only", "no-think"):
                texts = [direct(question, task) for question in questions]
            elif careless:
                texts = [
                    by_habit(q, rng, template=task, box=e, first=_FIRST) for q, e in zip(questions, edges, strict=True)
                ]
            else:
                texts = [
                    respond(q, "reasoned", rng, template=task, box=e) for q, e in zip(questions, edges, strict=True)
                ]
        loss, right = self._respond(prompts, [("", text) for text in texts], images)
        return loss, {task: right}

    def _respond(
        self, prompts: Sequence[str], responses: Sequence[tuple[str, str]], images: Array | None
    ) -> tuple[Tensor, float]:
        """Loss on the responses, and the share of correct rows. The images of a row stand one after another."""
        count = 0 if images is None else len(images) // len(prompts)
        ids, learned = self.rows(prompts, responses, images=count)
        pixels = None if images is None else patches(images)
        loss, right = response_loss(self.model, self.rows, ids, learned, pixels)
        return loss, float(right.float().mean())
