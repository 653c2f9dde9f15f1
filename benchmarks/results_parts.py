"""The parts of the results page: what each one measures, by which command, and with which sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import grounded
from benchmarks.audit import bench_audit
from benchmarks.audit_cost import audit_cost
from benchmarks.grounded import Bar, bench_grounded
from benchmarks.grpo import bench_grpo
from benchmarks.presets import PRESETS, Preset
from benchmarks.results_demo import NO_THINK, NO_THINK_CHANGES, RunDemo, measure_demo
from benchmarks.step import bench_step
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.models.load import PHANTOM_BASE
from medvlm_r1.recipes import recipe

COST = ("grpo-demo", "grpo-medium", "audit-cost", "step")
NAMES = ("demo", "shortcut", "audit", *COST)
GROUPS = {"cost": COST}

SHORTCUT_SEEDS = 3
"""The comparison of rewards takes no more of them, as each is two trainings and a start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured: the page's own by default."""

    overrides: tuple[str, ...] = ()
    """Changes to the recipe of the demo's training without thinking; those of its other stages come with the demo."""
    grounded: grounded.Sizes = field(default_factory=grounded.Sizes)
    audit_items: int = 300
    train_a: bool = True
    """Whether the audit's model that ignores the image is also a trained one."""
    cost_items: int = 300
    cost_rounds: int = 3
    demo_step: Preset = PRESETS["demo"]
    medium_step: Preset = PRESETS["medium"]
    recipe: str = "paper-lora-24gb.yaml"
    """Of `python -m benchmarks.step`."""
    full_size: Preset = PRESETS["paper"]
    pixels: int = 384
    completion: int = 16


DEFAULT_SIZES = Sizes()


def chosen_names(given: Sequence[str]) -> list[str]:
    """The parts asked for, in the page's order; all where none is named.

    Args:
        given: names of parts or groups, each perhaps several with commas between.

    Raises:
        UsageError: one is unknown; the message names the nearest.
    """
    asked = [name.strip() for text in given for name in text.split(",")] or list(NAMES)
    known = {**{name: (name,) for name in NAMES}, **GROUPS}
    for name in asked:
        if name not in known:
            raise UsageError(f"unknown part of the results {name!r}; {did_you_mean(name, known)}")
    wanted = {part for name in asked for part in known[name]}
    return [name for name in NAMES if name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something the page shows.

    Attributes:
        name: one of `NAMES`.
        commands: what makes its figures by hand.
        settings: what a result that is kept must have been made with.
        measure: given a folder of its own and what shows progress, the figures.
    """

    name: str
    commands: tuple[str, ...]
    settings: dict[str, Any]
    measure: Callable[[Path, Bar], dict[str, Any]]


def all_parts(*, seeds: int, run_demo: RunDemo, sizes: Sizes) -> dict[str, Part]:
    """Every part by name.

    Args:
        seeds: of the trainings of the demo, and of the questions of the audit.
        run_demo: the demo of a folder and a seed.
        sizes: how much of everything.
    """
    return {part.name: part for part in (*_compared(seeds, run_demo, sizes), *_timed(sizes))}


def _compared(seeds: int, run_demo: RunDemo, sizes: Sizes) -> list[Part]:
    """The parts whose figures do not hang on how fast the machine is."""
    repeats = min(seeds, SHORTCUT_SEEDS)

    def shortcut(folder: Path, bar: Bar) -> dict[str, Any]:
        return bench_grounded(folder, seeds=repeats, sizes=sizes.grounded, bar=bar)

    def audit(folder: Path, bar: Bar) -> dict[str, Any]:
        with bar("Audit of known models: items") as advance:
            demo = folder.parent / "demo" / "seed-0" / "grpo" / "model"
            found = bench_audit(
                items=sizes.audit_items,
                seeds=seeds,
                models={"e": str(demo)} if demo.is_dir() else {},
                trained=folder if sizes.train_a else None,
                progress=advance,
            )
        return found

    return [
        Part(
            name="demo",
            commands=(
                "medvlm-r1 demo --seed SEED --out DEMO",
                "medvlm-r1 train grpo --config recipes/phantom.yaml "
                + " ".join(f"'{change}'" for change in NO_THINK_CHANGES)
                + " model=START data.train=DEMO/data/train seed=SEED out=NO-THINK",
                *(
                    f"medvlm-r1 eval {model} --data DEMO/data/test --template {NO_THINK} --max-new-tokens "
                    f"{grounded.MAX_NEW_TOKENS} --out {out}"
                    for model, out in (("NO-THINK/model", "EVAL"), ("START", "START-EVAL"), (PHANTOM_BASE, "BASE-EVAL"))
                ),
            ),
            settings={"seeds": seeds},
            measure=lambda folder, bar: measure_demo(
                folder, seeds=seeds, run_demo=run_demo, overrides=sizes.overrides, bar=bar
            ),
        ),
        Part(
            name="shortcut",
            commands=(f"python -m benchmarks.grounded --seeds {repeats}",),
            settings={"seeds": repeats},
            measure=shortcut,
        ),
        Part(
            name="audit",
            commands=(
                f"python -m benchmarks.audit --items {sizes.audit_items} --seeds {seeds}"
                + (" --model e=DEMO/grpo/model --trained TRAINED" if sizes.train_a else ""),
            ),
            settings={"items": sizes.audit_items, "seeds": seeds},
            measure=audit,
        ),
    ]


def _timed(sizes: Sizes) -> list[Part]:
    """The parts that want a machine to themselves."""

    def step_against_trl(name: str, preset: Preset) -> Part:
        def measure(folder: Path, bar: Bar) -> dict[str, Any]:
            with bar(f"GRPO step, {preset.name}") as advance:
                return bench_grpo(preset, progress=advance)

        return Part(
            name=name,
            commands=(f"python -m benchmarks.grpo --preset {preset.name}",),
            settings={"rounds": preset.rounds},
            measure=measure,
        )

    def cost(folder: Path, bar: Bar) -> dict[str, Any]:
        with bar("Cost of the audit: rounds") as advance:
            return audit_cost(PHANTOM_BASE, items=sizes.cost_items, rounds=sizes.cost_rounds, progress=advance)

    def full_size(folder: Path, bar: Bar) -> dict[str, Any]:
        with bar("A step of full size") as advance:
            found = bench_step(
                recipe(sizes.recipe),
                stand_ins=sizes.full_size,
                pixels=sizes.pixels,
                completion=sizes.completion,
                progress=advance,
            )
        # Of random weights and made-up rewards.
        del found["measured"]["logs"]
        return found

    return [
        step_against_trl("grpo-demo", sizes.demo_step),
        step_against_trl("grpo-medium", sizes.medium_step),
        Part(
            name="audit-cost",
            commands=(
                f"python -m benchmarks.audit_cost {PHANTOM_BASE} --items {sizes.cost_items} "
                f"--rounds {sizes.cost_rounds}",
            ),
            settings={"items": sizes.cost_items, "rounds": sizes.cost_rounds},
            measure=cost,
        ),
        Part(
            name="step",
            commands=(
                f"python -m benchmarks.step --config recipes/{sizes.recipe} --pixels {sizes.pixels} "
                f"--completion-tokens {sizes.completion}",
            ),
            settings={"recipe": sizes.recipe, "pixels": sizes.pixels, "completion": sizes.completion},
            measure=full_size,
        ),
    ]
