"""The plan of a configuration: steps, tokens and memory of the run, and the reasons to refuse it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medvlm_r1.data import Sample
from medvlm_r1.data.check.overlap import warn_of_overlap
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.models.load import locate
from medvlm_r1.models.processor import ImageFit, load_processor
from medvlm_r1.training import options
from medvlm_r1.training.arguments import training_arguments
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run import memory
from medvlm_r1.training.dry_run.cards import BANDWIDTH_SHARE, CARDS, CPU, MATRIX_SHARE, TOKEN_SECONDS, Card, seconds
from medvlm_r1.training.dry_run.launch import Launch
from medvlm_r1.training.dry_run.memory import Placement
from medvlm_r1.training.dry_run.prompts import measure, shortest_answer
from medvlm_r1.training.dry_run.settings import read_batch, read_kept, read_placement, read_run, read_shares
from medvlm_r1.training.dry_run.shape import Shape, read_shape
from medvlm_r1.training.dry_run.work import Prompts, Run, Work, step_work, total
from medvlm_r1.training.loop import bound_pixels, load_sets


def refuse_cuts(plan: Plan, samples: Sequence[Sample], shortest: str, tokens: int) -> None:
    """Refuse what would cut prompts off, or completions that end before their tags can close.

    Args:
        plan: The plan.
        samples: The questions, in the order of its prompts.
        shortest: The shortest answer in the form of the template.
        tokens: Its tokens, the end token among them.

    Raises:
        UserError: What is too long or too short, by how much, and what to change.
    """
    config, prompts = plan.config, plan.prompts
    option = functools.partial(options.value, config.method, config.trainer)
    worst = max(range(len(prompts)), key=lambda i: prompts.tokens[i])
    image = prompts.image_tokens[worst]
    longest = f"the longest prompt, {samples[worst].id!r}, has {prompts.longest} tokens ({image} of its images)"
    if config.method == "grpo":
        limit = option("max_completion_length")
        if limit < tokens:
            raise UserError(
                f"trainer.max_completion_length is {limit}, and the shortest answer in the form of template "
                f"{config.template!r}, {shortest}, has {tokens} tokens: no completion could ever be well formed. "
                f"Raise it to {tokens} or, to leave room for reasoning, well above."
            )
        room = option("vllm_max_model_length") if option("use_vllm") else None
        name = "trainer.vllm_max_model_length"
    else:
        limit, room, name = (
            plan.run.completion,
            option("max_length"),
            "trainer.max_length",
        )
    needed = prompts.longest + int(limit)
    if room is not None and needed > room:
        raise UserError(
            f"{name} is {room}, but {longest} and up to {int(limit)} tokens follow; it would be cut off. Raise it to "
            f"{needed}, or lower max_pixels."
        )
    if needed > plan.shape.positions:
        raise UserError(
            f"{config.model} reaches {plan.shape.positions} positions, but {longest} and up to {int(limit)} tokens "
            "follow. Lower max_pixels or trainer.max_completion_length."
        )


def refuse_memory(plan: Plan) -> None:
    """Refuse what fits on none of the cards.

    Raises:
        UserError: With the memory on each card and the largest parts.
    """
    if any(plan.fits(card, shared=plan.shares) for card in plan.cards):
        return
    sizes = ", ".join(
        f"{card.label}: {plan.peak(card, shared=plan.shares) / 2**30:.1f} of {card.memory / 2**30:.0f} GiB"
        for card in plan.cards
    )
    parts = sorted(plan.memory(shared=plan.shares).items(), key=lambda item: -item[1])[:3]
    largest = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in parts)
    raise UserError(
        f"The run fits on none of the cards (estimated memory on each device: {sizes}). The largest parts: {largest}. "
        "Lower trainer.per_device_train_batch_size or max_pixels, set trainer.gradient_checkpointing, use lora, or "
        "shard the weights (--launch recipes/accelerate/zero3.yaml)."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `make_plan` found."""

    config: RunConfig
    shape: Shape
    prompts: Prompts
    run: Run
    placement: Placement
    shares: bool
    """Whether this run shares its prompts."""
    notes: tuple[str, ...]
    cards: tuple[Card, ...]

    def work(self, *, shared: bool) -> Work:
        """Operations of an optimizer step on a device."""
        return step_work(self.shape.model, self.prompts, self.run, shared=shared)

    def memory(self, *, shared: bool) -> dict[str, float]:
        """Bytes on a device by part."""
        return memory.parts(
            self.shape.model, self.shape.parameters, self.prompts, self.run, self.placement, shared=shared
        )

    def peak(self, card: Card | None, *, shared: bool) -> float:
        """Bytes on a device at the fullest time."""
        return max(self.phases(card, shared=shared).values())

    def fits(self, card: Card, *, shared: bool) -> bool:
        """Whether that goes into a card."""
        return self.peak(card, shared=shared) <= card.memory

    def phases(self, card: Card | None = None, *, shared: bool) -> dict[str, float]:
        """Bytes on a device while completions are written, and at the end of the update's forward pass."""
        return memory.phases(self.memory(shared=shared), self.placement, None if card is None else card.memory)

    def seconds(self, card: Card, *, shared: bool) -> dict[str, float] | None:
        """Estimated time of an optimizer step; None where the card's speed is not known."""
        if not card.peak:
            return None
        work = self.work(shared=shared)
        writing = sum(work["generation"][part] for part in ("completions", "head")) if self.run.generates else 0.0
        looped = 0.0 if self.run.prefix_cached or not self.run.generates else self._generations() * self.run.completion
        return seconds(card, operations=total(work) - writing, written=writing, read=self._read(), looped=looped)

    def _times(self, card: Card, *, shared: bool) -> dict[str, float]:
        times = self.seconds(card, shared=shared)
        if times is None:
            return {}
        seconds = {f"{name}_seconds": times[name] for name in ("step", "matrix", "writing")}
        return {**seconds, "hours": times["step"] * self.run.batch.steps / 3600}

    def _generations(self) -> float:
        batch = self.run.batch
        return batch.new_rows / (batch.rows * batch.passes_per_generation)

    def _read(self) -> float:
        """Bytes read while completions are written: for each token the weights once, and the cache of every row."""
        if not self.run.generates:
            return 0.0
        text, batch, run = self.shape.model.text, self.run.batch, self.run
        compute = self.placement.precision.compute
        weights = (text.weights + text.adapters + text.hidden * text.vocabulary) * compute
        rows = batch.rows * batch.passes_per_generation
        row = text.layers * 2 * text.keys * compute * (self.prompts.mean + run.completion / 2)
        return self._generations() * run.completion * (weights + rows * row)

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        batch, prompts, columns = self.run.batch, self.prompts, {"shared": True, "plain": False}
        if not self.run.generates:
            columns = {"plain": False}
        return {
            "model": {"name": self.config.model, "family": self.shape.family, **asdict(self.shape.parameters)},
            "method": self.config.method,
            "devices": batch.processes,
            "sharding": self.placement.sharding,
            "shares": self.shares,
            "steps": batch.steps,
            "epochs": batch.epochs_done,
            "prompts_per_step": batch.step_prompts,
            "completions_per_step": batch.step_prompts * batch.group if self.run.generates else 0,
            "completion_tokens": self.run.completion,
            "prompts": {
                "count": len(prompts),
                "tokens": _spread(prompts.tokens),
                "image_tokens": _spread(prompts.image_tokens),
                "patches": _spread([sum(images) for images in prompts.patches]),
            },
            "operations_per_step": {name: self.work(shared=flag) for name, flag in columns.items()},
            "memory": {
                name: {**self.memory(shared=flag), "peak": self.peak(None, shared=flag)}
                for name, flag in columns.items()
            },
            "cards": {
                card.name: {
                    "memory": card.memory,
                    "peak_operations": card.peak,
                    "bandwidth": card.bandwidth,
                    "source": card.source,
                    **{
                        name: {
                            "memory": self.peak(card, shared=flag),
                            "fits": self.fits(card, shared=flag),
                            **self._times(card, shared=flag),
                        }
                        for name, flag in columns.items()
                    },
                }
                for card in self.cards
            },
            "assumed": {
                "matrix_share": MATRIX_SHARE,
                "bandwidth_share": BANDWIDTH_SHARE,
                "token_seconds": TOKEN_SECONDS,
                "runtime_bytes": self.memory(shared=self.shares)["runtime"],
            },
            "notes": list(self.notes),
        }


def _spread(values: Sequence[int]) -> dict[str, float]:
    ordered = sorted(values)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

    mean = sum(ordered) / len(ordered)
    return {"min": ordered[0], "median": at(0.5), "mean": mean, "p95": at(0.95), "max": ordered[-1]}


def make_plan(
    config: RunConfig,
    *,
    launch: Launch = Launch(),  # noqa: B008 - frozen
    cards: Sequence[Card] = (),
    completion: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Work out a configuration's plan.

    Args:
        config: As `load_config` gives it.
        launch: The devices.
        cards: The cards to plan for; all known ones when empty.
        completion: Tokens assumed for every completion; its limit by default, which bounds the cost from above.
        progress: Told of (prompts measured, prompts).

    Raises:
        UsageError: `cards` names this machine's CPU beside others.
        UserError: Data or model cannot be read, or the run would cut prompts off or could never earn a reward.
            Whether it fits is for `refuse.refuse_memory`.
    """
    training_arguments(config, processes=launch.processes)
    folder = locate(config.model, weights=False)
    shape = read_shape(folder, config)
    processor = _processor(folder)
    bound_pixels(config, processor.image_processor)
    sets = load_sets(config, ImageFit(model=config.model, processor=processor.image_processor))
    samples = sets["train"]
    batch = read_batch(config, len(samples), launch.processes)
    prompts = measure(processor, config.data.train, samples, config.template, progress)
    notes: list[str] = []
    if config.data.eval is not None:
        warning = warn_of_overlap(config.data.train, samples, config.data.eval, sets["eval"])
        notes += [warning] if warning else []
    shares = read_shares(config, launch, notes)
    run = read_run(config, batch, completion, read_kept(shape, prompts, batch), notes)
    plan = Plan(
        config=config,
        shape=shape,
        prompts=prompts,
        run=run,
        placement=read_placement(config, shape, launch, cpu=_on_cpu(cards)),
        shares=shares,
        notes=tuple(notes),
        cards=tuple(cards) or tuple(CARDS.values()),
    )
    refuse_cuts(plan, samples, *shortest_answer(processor, config.template))
    return plan


def _on_cpu(cards: Sequence[Card]) -> bool:
    names = {card.name for card in cards}
    if CPU in names and len(names) > 1:
        raise UsageError(f"A plan is for a CPU or for cards; leave out {CPU} or {', '.join(sorted(names - {CPU}))}.")
    return CPU in names


def _processor(folder: Any) -> Any:
    processor = load_processor(folder)
    if not hasattr(processor, "_get_num_multimodal_tokens"):
        raise UserError(f"{folder}: its processor does not say how many tokens an image takes; the dry run needs that.")
    return processor
