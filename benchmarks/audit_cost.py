"""`python -m benchmarks.audit_cost`: the cost of a full model audit, in multiples of a plain evaluation."""

from __future__ import annotations

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
from medvlm_r1.cli.options import Json, complete_model, print_result
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.prompts.templates import messages

BATCH = 32
"""Batch size of the plain evaluation: the default of `eval`."""
MAX_TOKENS = 512


def audit_cost(
    model: str = "phantom-base",
    *,
    items: int = 300,
    rounds: int = 3,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Time a full audit and a plain evaluation alternately, on the same questions and in one process.

    Args:
        model: A folder, a hub id, or "phantom-base".
        items: PhantomVQA test questions, divided evenly between the modalities.
        rounds: Number of timed repetitions of each, after a short warm-up.
        progress: Called with (rounds done, rounds).

    Returns:
        `seconds.{plain,audit}` (medians, without image reading and the store), `ratio` (the median of the rounds'
        ratios), `ratios`, `variants_per_item`, `items`, `rounds`, `model`.
    """
    policy = load_policy(model)
    inputs, _ = phantom_items(items, 0)
    for work in (_plain, _audit):
        work(policy, inputs[:ITEMS_AT_ONCE])
    seconds: dict[str, list[float]] = {"plain": [], "audit": []}
    variants = 0
    for number in range(rounds):
        progress(number, rounds)
        for name, work in (("plain", _plain), ("audit", _audit)):
            start = time.perf_counter()
            variants = work(policy, inputs)
            seconds[name].append(time.perf_counter() - start)
    progress(rounds, rounds)
    ratios = [audit / plain for plain, audit in zip(*seconds.values(), strict=True)]
    return {
        "model": model,
        "items": len(inputs),
        "rounds": rounds,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "variants_per_item": variants / len(inputs),
    }


def cost_lines(figures: Mapping[str, Any]) -> list[str]:
    """Format the measured cost as lines of text."""
    seconds = figures["seconds"]
    return [
        f"{figures['model']}, {figures['items']} questions, median of {figures['rounds']} rounds",
        f"plain evaluation {seconds['plain']:.1f} s",
        f"full audit       {seconds['audit']:.1f} s, {figures['variants_per_item']:.1f} variants per question",
        f"the audit costs  {figures['ratio']:.2f} evaluations",
    ]


def _plain(policy: Policy, inputs: Sequence[ProbeInput]) -> int:
    items = [GenerationInput(prompt=messages(item.sample, item.template), images=item.images) for item in inputs]
    generator = LocalGenerator(policy=policy, batch_size=BATCH)
    return len(generator.generate(items, GenerationSettings(max_new_tokens=MAX_TOKENS)))


def _audit(policy: Policy, inputs: Sequence[ProbeInput]) -> int:
    # A new backend: a used one has the images' features.
    backend = local_audit_backend(policy, template=inputs[0].template, max_new_tokens=MAX_TOKENS)
    batches = [[inputs[index] for index in rows] for rows in even_parts(len(inputs), ITEMS_AT_ONCE)]
    responses = [collect_responses(batch, list(PROBES.values()), backend) for batch in batches]
    return sum(len(answers) for batch in responses for answers in batch.values())


def main(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", autocompletion=complete_model, help="Model folder, hub id, or phantom-base."),
    ] = "phantom-base",
    items: Annotated[int, typer.Option(min=1, help="PhantomVQA questions.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Timed repetitions.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure how many plain evaluations the full audit of a model costs, on the same questions.

    Example: python -m benchmarks.audit_cost phantom-base --items 60
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Rounds") as advance:
        figures = audit_cost(model, items=items, rounds=rounds, progress=advance)
    print_result(figures, cost_lines(figures), as_json=as_json)


if __name__ == "__main__":
    run(main, "audit_cost")
