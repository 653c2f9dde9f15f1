"""A step on more cards: what they share out, what they send each other, and where that stops paying.

Two ways to use n cards. `larger`: every card keeps the passes it had alone, so a step has n times the prompts. `same`:
the step keeps its prompts, and its passes are dealt out, then the rows of a pass; a group whose rows lie on several
cards has its prompt computed on each.

Bytes are counted, for what each card sends; seconds follow from stated bandwidths and assumed shares of them. Nothing
is taken off for sending that runs beside computing, so a real step lies between the time of its work and this sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from medvlm_r1.training.dry_run.batch import Batch
from medvlm_r1.training.dry_run.cards import BANDWIDTH_SHARE, LINK_SHARE, MACHINE_CARDS, NETWORK, Card
from medvlm_r1.training.dry_run.plan import Plan

COUNTS = (1, 8, 64)
"""Cards that are shown when none are asked for."""
Way = Literal["larger", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A step on some cards."""

    cards: int
    way: Way
    prompts: float
    """Of the step, over all cards."""
    passes: int
    """Of a card in the step."""
    rows: int
    """Of a pass."""
    prompt_passes: float
    """Times a prompt goes through the update of the step, over all cards, for each prompt."""
    generation: float
    """Seconds of writing completions and computing their prompts."""
    update: float
    """Seconds of everything else that computes."""
    gradient_bytes: float
    """That a card sends for gradients, and for weights where those are sharded."""
    sync_bytes: float
    """That each generator is given of new weights; 0 where the trainer's own model generates."""
    sending: float
    """Seconds of both, nothing hidden behind the work."""

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.generation + self.update + self.sending

    @property
    def rate(self) -> float:
        """Prompts a second."""
        return self.prompts / self.seconds


def scale(plan: Plan, card: Card, counts: Sequence[int] = COUNTS) -> list[Scaled]:
    """The step of a plan on several numbers of cards, both ways; those it cannot be cut into are left out.

    Args:
        plan: As `make_plan` gives it; its own number of devices does not matter.
        card: What all of them are.
        counts: Numbers of cards.

    Returns:
        For each way, in the order of `counts`. Empty where the card's speed is not known.
    """
    ways: tuple[Way, ...] = ("larger", "same")
    cuts = [(way, spread(plan.run.batch, count, way)) for way in ways for count in counts]
    return [one for way, cut in cuts if cut is not None and (one := _scaled(plan, card, cut, way)) is not None]


def spread(batch: Batch, cards: int, way: Way) -> Batch | None:
    """The batch over so many cards; None where its rows do not divide among them."""
    # As on one card: what a card had is multiplied first, so that a plan for 8 can be asked for 64.
    passes = batch.accumulation * batch.processes
    if way == "larger":
        return replace(batch, processes=cards)
    ratio = batch.passes_per_generation / batch.accumulation
    if passes % cards == 0:
        rows, accumulation = batch.rows, passes // cards
    elif (batch.rows * passes) % cards == 0:
        rows, accumulation = batch.rows * passes // cards, 1
    else:
        return None
    generated = ratio * accumulation
    if generated != int(generated):
        return None
    return replace(
        batch, rows=rows, accumulation=accumulation, processes=cards, passes_per_generation=max(1, int(generated))
    )


def _scaled(plan: Plan, card: Card, batch: Batch, way: Way) -> Scaled | None:
    shared = plan.shares
    cut = replace(
        plan, run=replace(plan.run, batch=batch), placement=replace(plan.placement, processes=batch.processes)
    )
    times = cut.seconds(card, shared=shared)
    if times is None:
        return None
    work = cut.work(shared=shared)
    prefill = sum(work.get("generation", {}).get(part, 0.0) for part in ("tower", "prompt"))
    generation = times["writing"] + card.matrix_seconds(prefill)
    sent, sync = gradient_bytes(cut), sync_bytes(cut)
    return Scaled(
        cards=batch.processes,
        way=way,
        prompts=batch.step_prompts,
        passes=batch.accumulation,
        rows=batch.rows,
        prompt_passes=batch.prompt_passes(shared=shared) * batch.processes / batch.step_prompts,
        generation=generation,
        update=times["step"] - generation,
        gradient_bytes=sent,
        sync_bytes=sync,
        sending=sent / bandwidth(card, batch.processes) + sync / _sync_bandwidth(cut, card),
    )


def bandwidth(card: Card, cards: int) -> float:
    """Bytes a second that a card can count on: of the links of its machine, or of the network between machines."""
    return LINK_SHARE * (card.links if cards <= MACHINE_CARDS else NETWORK)


def gradient_bytes(plan: Plan) -> float:
    """Bytes a card sends in a step for gradients and sharded weights.

    A ring all-reduce of b bytes has each of n cards send 2 (n - 1) / n b (Patarasuk and Yuan, 2009); gathering or
    scattering them is half of that. Weights that are sharded (ZeRO-3, FSDP2; Rajbhandari et al., arXiv 1910.02054) are
    gathered for the generation once, for every forward pass, for every backward pass, and gradients are scattered.
    """
    batch, parameters, placement = plan.run.batch, plan.shape.parameters, plan.placement
    part = (batch.processes - 1) / batch.processes
    if placement.sharding in ("none", "zero2"):
        return 2 * part * parameters.trained * placement.learned
    weights = (parameters.total + parameters.adapters) * placement.precision.compute
    gathers = batch.accumulation * (2 + plan.run.reference + plan.run.old_policy) + plan.run.generates
    return part * (gathers * weights + batch.accumulation * parameters.trained * placement.learned)


def sync_bytes(plan: Plan) -> float:
    """Bytes of weights that vLLM is given after an update: all of them, adapters merged in."""
    if not plan.run.prefix_cached:
        return 0.0
    return float(plan.shape.parameters.total * plan.placement.precision.compute)


def _sync_bandwidth(plan: Plan, card: Card) -> float:
    # A colocated vLLM is given a copy in the card's own memory, read and written; a server is on other cards.
    if plan.placement.vllm_share:
        return BANDWIDTH_SHARE * card.bandwidth / 2
    return bandwidth(card, plan.run.batch.processes)


def scale_record(found: Sequence[Scaled]) -> list[dict[str, Any]]:
    """As JSON."""
    return [{**asdict(one), "seconds": one.seconds, "rate": one.rate} for one in found]
