"""The operations of an optimizer step on one device, by phase and part, with the prompt shared and not.

Without sharing (TRL's way) a prompt and its images go through the model once for each of its completions: in
generation, for the reference, for the policy that generated where it is scored again, and in the update. With sharing
(`models.decoding.shared_generation`, `models.sharing.forward`) they go through it once for each prompt of a batch; features of
images that cannot change are computed once for the run (`training.grpo`). Completions and the head cost the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medvlm_r1.training.dry_run.batch import Batch
from medvlm_r1.training.dry_run.counts import (
    Forward,
    Text,
    Tower,
    causal,
    continued,
    head_backward,
    head_forward,
    text_forward,
    tower_forward,
)

PARTS = ("tower", "prompt", "completions", "head")
Work = dict[str, dict[str, float]]
"""Operations by phase, then by part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Which weights of the model's own are trained (adapters are apart)."""

    text: bool
    tower: bool
    head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as the arithmetic sees it."""

    text: Text
    tower: Tower
    trained: Trained

    @property
    def tower_learns(self) -> bool:
        """Whether anything of the tower is trained, an adapter too."""
        return self.trained.tower or bool(self.tower.patch_adapters or self.tower.token_adapters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of a data set."""

    tokens: tuple[int, ...]
    """Of each prompt, those of its images among them."""
    image_tokens: tuple[int, ...]
    """Of each prompt, those that stand for its images."""
    patches: tuple[tuple[int, ...], ...]
    """Of each image of each prompt."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mean(self) -> float:
        """Tokens of a prompt, on average."""
        return sum(self.tokens) / len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(self.tokens)

    @property
    def most_patches(self) -> int:
        """Patches of the images of one prompt, at most."""
        return max(sum(images) for images in self.patches)


def _mean(parts: Sequence[Forward], count: int) -> Forward:
    return Forward(
        linear=sum(part.linear for part in parts) / count,
        adapters=sum(part.adapters for part in parts) / count,
        attention=sum(part.attention for part in parts) / count,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What of a configuration the operations depend on."""

    batch: Batch
    completion: float
    """Tokens of a completion."""
    reference: bool
    """Whether there is a reference (beta above 0)."""
    old_policy: bool
    """Whether the policy that generated is scored again."""
    generates: bool = True
    """False for SFT."""
    prefix_cached: bool = False
    """The generator computes a prompt once by itself (vLLM)."""
    checkpointing: bool = False
    """Layers are computed again in the backward pass (`gradient_checkpointing`)."""
    kept: float = 1.0
    """Share of the images whose unchanging features are not kept from before; 1 keeps none."""


def step_work(model: Model, prompts: Prompts, run: Run, *, shared: bool) -> Work:
    """Operations of an optimizer step on one device, on average over the data.

    Args:
        model: The model.
        prompts: The prompts; the mean over them is taken of operations, not of lengths.
        run: The run.
        shared: Whether prompts are shared.
    """
    text, batch = model.text, run.batch
    prompt = _mean([text_forward(text, n, causal(n)) for n in prompts.tokens], len(prompts))
    tower = _mean(
        [tower_forward(model.tower, patches) for images in prompts.patches for patches in images], len(prompts)
    )
    completion = text_forward(text, run.completion, continued(prompts.mean, run.completion))
    head = head_forward(text, run.completion)
    frozen_share = run.kept if shared else 1.0
    policy_share = 1.0 if model.tower_learns else frozen_share
    work: Work = {}

    def scored(rows: float, times: float, share: float, *, adapters: bool = True) -> dict[str, float]:
        def of(forward: Forward) -> float:
            return forward.total if adapters else forward.plain

        return {
            "tower": times * share * of(tower),
            "prompt": times * of(prompt),
            "completions": rows * of(completion),
            "head": rows * head,
        }

    if run.generates:
        work["generation"] = scored(
            batch.new_rows,
            batch.prefills(shared=shared or run.prefix_cached),
            1.0 if run.prefix_cached else policy_share,
        )
    # Scored in passes of `rows` rows, for the completions of a step.
    times = batch.prompt_passes(shared=shared) / batch.iterations
    if run.old_policy:
        work["old policy"] = scored(batch.new_rows, times, policy_share)
    if run.reference:
        # With adapters the reference is the policy with them off.
        work["reference"] = scored(batch.new_rows, times, frozen_share, adapters=False)
    times = batch.prompt_passes(shared=shared)
    again = 1 if run.checkpointing else 0
    update = scored(batch.step_rows, times, policy_share)
    if model.tower_learns:
        update["tower"] += times * (tower.backward(trained=model.trained.tower) + again * tower.total)
    update["prompt"] += times * (prompt.backward(trained=model.trained.text) + again * prompt.total)
    update["completions"] += batch.step_rows * (
        completion.backward(trained=model.trained.text) + again * completion.total
    )
    update["head"] += batch.step_rows * head_backward(text, run.completion, trained=model.trained.head)
    work["update"] = update
    return work


def total(work: Work) -> float:
    """All operations of a step."""
    return sum(sum(parts.values()) for parts in work.values())
