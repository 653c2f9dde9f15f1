"""Which parts the results page has, how they are named on the command line, and how much each one measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medvlm_r1.bench import grounded
from medvlm_r1.bench.presets import PRESETS, Preset
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError

COST = ("grpo-demo", "grpo-medium", "audit-cost", "serve", "step")
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
    clients: int = 32
    serve_seconds: float = 60.0
    serve_rounds: int = 3
    """Servers, one after another."""
    max_new_tokens: int = 512
    """Longest reply of the server."""
    recipe: str = "paper-lora-24gb.yaml"
    """Of `bench step`."""
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
