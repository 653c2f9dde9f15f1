"""What the whole audit of a model costs, in plain evaluations of the same questions."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from benchmarks.audit import phantom_items
from benchmarks.command import run
from medvlm_r1.audit.backends import local_audit_backend
from medvlm_r1.audit.collect import collect_responses, even_parts
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.audit.runner import ITEMS_AT_ONCE
from medvlm_r1.cli.options import Json, OwnModel
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.prompts.templates import messages

BATCH = 32
"""Of the plain evaluation: the default of `eval`."""
MOST_TOKENS = 512


def audit_cost(
    model: str = "phantom-base",
    *,
    items: int = 300,
    rounds: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time both in one process, alternately.

    Args:
        model: A folder, a hub id, or "phantom-base".
        items: PhantomVQA test questions, divided evenly between the modalities.
        rounds: Timed repetitions of each, after a short one that is not counted.
        progress: Called with (rounds done, rounds).

    Returns:
        `seconds.{plain,audit}` (medians; image reading and the store are in neither), `ratio` (the median of the
        rounds' ratios), `ratios`, `variants_per_item`, `items`, `rounds`, `model`.
    """
    policy = load_policy(model)
    asked, _ = phantom_items(items, 0)
    for some in (_plain, _audit):
        some(policy, asked[:ITEMS_AT_ONCE])
    plain, audit, variants = [], [], 0
    for number in range(rounds):
        if progress is not None:
            progress(number, rounds)
        seconds, _ = _timed(_plain, policy, asked)
        plain.append(seconds)
        seconds, variants = _timed(_audit, policy, asked)
        audit.append(seconds)
    if progress is not None:
        progress(rounds, rounds)
    ratios = [b / a for a, b in zip(plain, audit, strict=True)]
    return {
        "model": model,
        "items": len(asked),
        "rounds": rounds,
        "seconds": {"plain": statistics.median(plain), "audit": statistics.median(audit)},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "variants_per_item": variants / len(asked),
    }


def cost_lines(found: Mapping[str, Any]) -> list[str]:
    """The figures in words."""
    seconds = found["seconds"]
    return [
        f"{found['model']}, {found['items']} questions, median of {found['rounds']} rounds",
        f"plain evaluation {seconds['plain']:.1f} s",
        f"full audit       {seconds['audit']:.1f} s, {found['variants_per_item']:.1f} variants a question",
        f"the audit costs  {found['ratio']:.2f} evaluations",
    ]


def _timed(
    work: Callable[[Policy, Sequence[ProbeInput]], int], policy: Policy, asked: Sequence[ProbeInput]
) -> tuple[float, int]:
    began = time.perf_counter()
    count = work(policy, asked)
    return time.perf_counter() - began, count


def _plain(policy: Policy, asked: Sequence[ProbeInput]) -> int:
    inputs = [GenerationInput(prompt=messages(item.sample, item.template), images=item.images) for item in asked]
    generator = LocalGenerator(policy=policy, batch_size=BATCH)
    return len(generator.generate(inputs, GenerationSettings(max_new_tokens=MOST_TOKENS)))


def _audit(policy: Policy, asked: Sequence[ProbeInput]) -> int:
    # A backend of its own: one that was used before would have kept the images' features.
    backend = local_audit_backend(policy, template=asked[0].template, max_new_tokens=MOST_TOKENS)
    probes = list(PROBES.values())
    parts = [[asked[place] for place in part] for part in even_parts(len(asked), ITEMS_AT_ONCE)]
    return sum(len(answers) for part in parts for answers in collect_responses(part, probes, backend).values())


def main(
    model: OwnModel = "phantom-base",
    items: Annotated[int, typer.Option(min=1, help="PhantomVQA questions.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Timed repetitions.")] = 3,
    as_json: Json = False,
) -> None:
    """How many plain evaluations does the full audit of a model cost, on the same questions?

    Example: python -m benchmarks.audit_cost phantom-base --items 60
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Rounds") as advance:
        found = audit_cost(model, items=items, rounds=rounds, progress=advance)
    print(json.dumps(found) if as_json else "\n".join(cost_lines(found)))


if __name__ == "__main__":
    run(main, "audit_cost")
