"""What the dry run refuses: prompts cut off, completions too short for their tags, too little memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medvlm_r1.data import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.training import options

if TYPE_CHECKING:
    from medvlm_r1.training.plan.plan import Plan


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
