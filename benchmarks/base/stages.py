"""The five stages of the embedded base. Each is a loop over fresh batches with a warm-up and a decay to zero.

1. lesions: findings patch by patch, on crops;
2. tower: the attributes of whole images, by classification heads;
3. options: weighing options against a given description, on text alone;
4. reading: descriptions and flawless answers from images;
5. habits: the careless mixture of `language.MIXTURE`.

Reinforcement brings out what is there and nothing else, so stage 4 has to be right on nine items of ten before stage 5
buries it under other habits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.base.batches import Rows, response_loss
from benchmarks.base.language import CAPTION_REQUEST, careless, prompt, reasoned
from benchmarks.base.pool import PIXELS, Pool
from benchmarks.base.tower import Heads, cells, crops, features, jitter, patches, targets
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.geometry import Array
from medvlm_r1.phantom.questions import ask, ask_about, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How long and how fast a stage learns."""

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
    "options": Stage(steps=500, batch=96, lr=1.5e-3),
    "reading": Stage(steps=2000, batch=32, lr=8e-4),
    "habits": Stage(steps=500, batch=32, lr=5e-4),
}

_WHOLE = 0.25
"""Share of the steps that show the template's instructions, which cost more than they teach."""

Report = Callable[[str, int, int, dict[str, float]], None]


def optimize(
    name: str,
    stage: Stage,
    parameters: Sequence[nn.Parameter],
    batch_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    log: Path,
    report: Report,
) -> None:
    """Runs a stage.

    Args:
        name: The stage's name.
        stage: Its length and rates.
        parameters: What is trained.
        batch_loss: From the step's number to a loss and figures worth logging.
        log: JSON-lines file for the figures.
        report: Called with (name, step, steps, figures) every 20 steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    started = time.perf_counter()
    figures: dict[str, list[float]] = {}
    for step in range(stage.steps):
        rise = min(1.0, (step + 1) / stage.warmup)
        # A trapezoid: the last 40 % decay to zero.
        fall = min(1.0, (stage.steps - step) / (0.4 * stage.steps))
        loss, more = batch_loss(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * rise * fall
        optimizer.step()
        for key, number in {"loss": float(loss.detach()), **more}.items():
            figures.setdefault(key, []).append(number)
        if (step + 1) % 20 == 0 or step + 1 == stage.steps:
            means = {key: float(np.nanmean(numbers)) for key, numbers in figures.items()}
            means["seconds"] = time.perf_counter() - started
            figures = {}
            with log.open("a") as out:
                out.write(json.dumps({"stage": name, "step": step + 1, **means}) + "\n")
            report(name, step + 1, stage.steps, means)


def _take(pool: Pool, count: int, rng: np.random.Generator) -> tuple[list[Scene], Array, Array]:
    index = rng.choice(len(pool.scenes), size=count, replace=False)
    images, places = jitter(pool.images[index], pool.places[index], rng)
    return [pool.scenes[i] for i in index], images, places


def lesions(model: Any, heads: Heads, pool: Pool, stage: Stage, seed: int, log: Path, report: Report) -> None:
    """Stage 1. Crops cost a quarter of whole images and show a finding four times as large a share of the time."""
    side = PIXELS // 2

    def batch_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, 0, step))
        scenes, images, places = _take(pool, stage.batch, rng)
        images, places = crops(images, places, side, rng)
        pixels = patches(images)
        states, _ = features(model.model.visual, pixels)
        return heads.local(states, *cells(places, scenes, pixels.shape[1]))

    optimize("lesions", stage, _of_tower(model, heads), batch_loss, log, report)


def tower(model: Any, heads: Heads, pool: Pool, stage: Stage, seed: int, log: Path, report: Report) -> None:
    """Stage 2."""

    def batch_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, images, places = _take(pool, stage.batch, np.random.default_rng((seed, 1, step)))
        states, tokens = features(model.model.visual, patches(images))
        loss, right = heads(tokens, targets(scenes))
        local, local_right = heads.local(states, *cells(places, scenes))
        return loss + local, {**right, **local_right}

    optimize("tower", stage, _of_tower(model, heads), batch_loss, log, report)


def _of_tower(model: Any, heads: Heads) -> list[nn.Parameter]:
    return [*model.model.visual.parameters(), *heads.parameters()]


def options(model: Any, rows: Rows, stage: Stage, seed: int, log: Path, report: Report) -> None:
    """Stage 3. The description is given, so the model learns to weigh options and to state the letter."""

    def batch_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, 2, step))
        questions = [
            ask(str(rng.choice(MODALITIES)), (SPLITS["pretrain"], seed, 0, i), rng) for i in range(stage.batch)
        ]
        prompts, responses = [], []
        whole = rng.random() < _WHOLE
        for question in questions:
            prompts.append(prompt(question, whole=whole))
            given = f"<think>{describe(question.scene)}"
            responses.append((given, reasoned(question)[len(given) :]))
        ids, learned = rows(prompts, responses, image=False)
        loss, right = response_loss(model, rows, ids, learned, None)
        return loss, {"right": float(right.float().mean())}

    language = [p for key, p in model.named_parameters() if ".visual." not in key]
    optimize("options", stage, language, batch_loss, log, report)


def reading(model: Any, rows: Rows, pool: Pool, stage: Stage, seed: int, log: Path, report: Report) -> None:
    """Stage 4. Descriptions at first, then more and more whole answers."""

    def batch_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, 3, step))
        scenes, images, _ = _take(pool, stage.batch, rng)
        # Never descriptions alone: a phase of those unlearned the weighing of stage 3.
        captions = rng.random() < 0.8 - 2 * step / stage.steps
        whole = rng.random() < _WHOLE
        prompts, responses = [], []
        for scene in scenes:
            if captions:
                prompts.append(CAPTION_REQUEST)
                responses.append(("", describe(scene)))
            else:
                question = ask_about(scene, rng)
                prompts.append(prompt(question, whole=whole))
                responses.append(("", reasoned(question)))
        ids, learned = rows(prompts, responses, image=True)
        loss, right = response_loss(model, rows, ids, learned, patches(images))
        return loss, {"captions" if captions else "right": float(right.float().mean())}

    optimize("reading", stage, list(model.parameters()), batch_loss, log, report)


def habits(model: Any, rows: Rows, pool: Pool, stage: Stage, seed: int, log: Path, report: Report) -> None:
    """Stage 5."""

    def batch_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, 4, step))
        scenes, images, _ = _take(pool, stage.batch, rng)
        questions = [ask_about(scene, rng) for scene in scenes]
        ids, learned = rows([prompt(q) for q in questions], [("", careless(q, rng)) for q in questions], image=True)
        loss, _ = response_loss(model, rows, ids, learned, patches(images))
        return loss, {}

    optimize("habits", stage, list(model.parameters()), batch_loss, log, report)
