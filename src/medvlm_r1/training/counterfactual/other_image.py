"""Counterfactual rollouts: half of each group is generated with another item's image, to reward image dependence.

A reward requests them by a parameter named `own_image`. Without such a reward nothing here runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.errors import UserError
from medvlm_r1.models.sharing.batch import images_key
from medvlm_r1.rewards import asks, resolve_reward
from medvlm_r1.rewards.accuracy_strict import accuracy_strict

COLUMN = "own_image"
OWN_RIGHT, OTHER_RIGHT = "own_right", "other_right"
"""Keys in `metrics.jsonl`: share of completions with the correct letter (0 to 1), with the own and another image."""


class CounterfactualImages:
    """Mixin before a `GRPOTrainer` whose rewards carry their names in the configuration.

    If a reward requests it, the second half of the completions of each prompt (the smaller half of an odd number) is
    generated with the images of another prompt. This is the next prompt of the same process with the same modality, the
    same number of images, and other images. If there is none, mid-gray images of the same size are shown. Nothing is
    random. Loss, log-probabilities and reference use the images that a completion was generated with. Prompts without
    images and TRL's own evaluation do not change.
    """

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trainer: Any = self
        if self._swaps_images():
            size = trainer.num_generations
            # Rows are distributed over processes in order, so a group may begin in one and end in the next.
            first = trainer.accelerator.process_index * len(inputs)
            own = [(first + row) % size < (size + 1) // 2 for row in range(len(inputs))]
            inputs = with_counterfactual_images(inputs, own)
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc, no-any-return]

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *more: Any, **named: Any
    ) -> Any:
        # TRL sends one row per group to vLLM and takes the others for equal; here only half of a group is.
        if self._swaps_images() and self.use_vllm and num_generations > 1:  # type: ignore[attr-defined]
            num_generations //= 2
        return super()._generate_single_turn(  # type: ignore[misc]
            prompt_ids, images, multimodal_fields, num_generations, *more, **named
        )

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        trainer: Any = self
        if needs_counterfactual(trainer.reward_func_names):
            inputs = [{COLUMN: True} | row for row in inputs]
            correct = accuracy_strict(prompts, completions, letter=[row["letter"] for row in inputs])
            for name, own in ((OWN_RIGHT, True), (OTHER_RIGHT, False)):
                shares = [value for value, row in zip(correct, inputs, strict=True) if row[COLUMN] == own]
                if shares:
                    trainer._log_metric(name, sum(shares) / len(shares))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]

    def _swaps_images(self) -> bool:
        trainer: Any = self
        return bool(trainer.model.training) and needs_counterfactual(trainer.reward_func_names)


def needs_counterfactual(names: Sequence[str]) -> bool:
    """Whether one of these rewards has a parameter `own_image`."""
    return any(asks(resolve_reward(name), COLUMN) for name in names)


def check_counterfactual(names: Sequence[str], args: Any) -> None:
    """Check that the groups of a run can be halved.

    Args:
        names: Names of the rewards of the run.
        args: Its `GRPOConfig`.

    Raises:
        UserError: A reward needs counterfactual images, vLLM generates, and the group size is odd.
    """
    if needs_counterfactual(names) and args.use_vllm and args.num_generations % 2:
        raise UserError(
            f"trainer.num_generations is {args.num_generations}; with vLLM, `grounded` and rewards like it need an "
            f"even number, as half of a group sees another image. Set it to {args.num_generations + 1}."
        )


def with_counterfactual_images(inputs: Sequence[Mapping[str, Any]], own: Sequence[bool]) -> list[dict[str, Any]]:
    """Add the column `own_image` to the rows of a generation batch, and swap the images of some.

    Args:
        inputs: Rows with `images` and `modality`; equal prompts are adjacent.
        own: Which rows keep their images. A row without images always does.
    """
    keys: dict[int, str] = {}
    for row in inputs:
        keys.setdefault(id(row["images"]), images_key(row["images"]))
    keyed = [(keys[id(row["images"])], row) for row in inputs]
    result = []
    for index, (row, keeps) in enumerate(zip(inputs, own, strict=True)):
        if keeps or not row["images"]:
            result.append({**row, COLUMN: True})
            continue
        others = (
            other["images"]
            for key, other in (*keyed[index + 1 :], *keyed[:index])
            if key != keyed[index][0]
            and other["modality"] == row["modality"]
            and len(other["images"] or ()) == len(row["images"])
        )
        images = next(others, None) or [blank_like(image) for image in row["images"]]
        result.append({**row, "images": images, COLUMN: False})
    return result
