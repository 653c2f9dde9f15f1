"""Half of each group beside the image of another item, for rewards that pay for what an answer takes from the image.

A reward asks for it by naming the column `own_image` in its signature, as it would name one of the data set; a user's
own function can too. Without such a reward nothing here runs.
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
"""Keys in `metrics.jsonl`: shares (0 to 1) of the completions that give their question's right letter, of those beside
the image that belongs to it and of those beside another's."""


class ShowsOthers:
    """Mixin before a `GRPOTrainer` whose rewards stand under the names of the configuration.

    Where a reward asks for it, the second half of the completions of each prompt (the smaller one where their number is
    odd) sees the images of another prompt: the next one, of those the process generates for, with the same modality, as
    many images and other ones; failing that, mid-grey images of the size of its own. Nothing is drawn at random. Loss,
    log-probabilities and reference read each completion beside the images it was written for. A prompt without images
    stays as it is, and so does everything in TRL's own evaluation.
    """

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trainer: Any = self
        if self._contrasts():
            size = trainer.num_generations
            # Processes take turns at the rows, so a group may begin in one and end in the next.
            first = trainer.accelerator.process_index * len(inputs)
            own = [(first + row) % size < (size + 1) // 2 for row in range(len(inputs))]
            inputs = contrasted(inputs, own)
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc, no-any-return]

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *more: Any, **named: Any
    ) -> Any:
        # vLLM is sent one row of so many that are taken to be alike; here only half of a group is.
        if self._contrasts() and self.use_vllm and num_generations > 1:  # type: ignore[attr-defined]
            num_generations //= 2
        return super()._generate_single_turn(  # type: ignore[misc]
            prompt_ids, images, multimodal_fields, num_generations, *more, **named
        )

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        trainer: Any = self
        if asks_contrast(trainer.reward_func_names):
            inputs = [{COLUMN: True} | row for row in inputs]
            right = accuracy_strict(prompts, completions, letter=[row["letter"] for row in inputs])
            for name, own in ((OWN_RIGHT, True), (OTHER_RIGHT, False)):
                shares = [value for value, row in zip(right, inputs, strict=True) if row[COLUMN] == own]
                if shares:
                    trainer._log_metric(name, sum(shares) / len(shares))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]

    def _contrasts(self) -> bool:
        trainer: Any = self
        return bool(trainer.model.training) and asks_contrast(trainer.reward_func_names)


def asks_contrast(names: Sequence[str]) -> bool:
    """Whether one of the rewards of these names asks for the column `own_image`."""
    return any(asks(resolve_reward(name), COLUMN) for name in names)


def check_contrast(names: Sequence[str], args: Any) -> None:
    """Refuse what halves of a group cannot do.

    Args:
        names: of the rewards of a run.
        args: its `GRPOConfig`.

    Raises:
        UserError: a reward asks for halves, vLLM generates and the group has no equal halves.
    """
    if asks_contrast(names) and args.use_vllm and args.num_generations % 2:
        raise UserError(
            f"trainer.num_generations is {args.num_generations}; with vLLM, `grounded` and rewards like it need an "
            f"even number, as half of a group sees another image. Set it to {args.num_generations + 1}."
        )


def contrasted(inputs: Sequence[Mapping[str, Any]], own: Sequence[bool]) -> list[dict[str, Any]]:
    """Rows of a generation batch, some with the images of others, all with the column `own_image`.

    Args:
        inputs: rows with `images` and `modality`; equal prompts adjacent.
        own: which rows keep their images. One without images keeps that it has none.
    """
    keys: dict[int, str] = {}
    for row in inputs:
        keys.setdefault(id(row["images"]), images_key(row["images"]))
    shown = [(keys[id(row["images"])], row) for row in inputs]
    result = []
    for place, (row, keeps) in enumerate(zip(inputs, own, strict=True)):
        if keeps or not row["images"]:
            result.append({**row, COLUMN: True})
            continue
        others = (
            other["images"]
            for key, other in (*shown[place + 1 :], *shown[:place])
            if key != shown[place][0]
            and other["modality"] == row["modality"]
            and len(other["images"] or ()) == len(row["images"])
        )
        images = next(others, None) or [blank_like(image) for image in row["images"]]
        result.append({**row, "images": images, COLUMN: False})
    return result
