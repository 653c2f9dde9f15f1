"""Counterfactual rollouts: answers to blank images, and completions for other items' images, for rewards that use them.

A reward requests them with a parameter named `blank_letter` or `own_image`. If no reward does, nothing in this module
runs.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl import GRPOTrainer

from medvlm_r1.data.images.picture import blank_like
from medvlm_r1.errors import UserError
from medvlm_r1.models.sharing.batch import distinct, images_key
from medvlm_r1.prompts.parser import strict_letter
from medvlm_r1.rewards import any_asks
from medvlm_r1.rewards.accuracy_strict import accuracy_strict

BLANK_LETTER, OWN_IMAGE = "blank_letter", "own_image"
"""Parameters with which a reward requests answers to blank images, or other items' images for half of each group."""
BLANK_RIGHT = "blank_right"
"""Key in `metrics.jsonl`: fraction (0 to 1) of the prompts with images whose blank-image answer is correct."""
OWN_RIGHT, OTHER_RIGHT = "own_right", "other_right"
"""Keys in `metrics.jsonl`: fraction (0 to 1) of completions with the correct letter, for the item's own image and for
another item's image."""


class CounterfactualImages(GRPOTrainer):  # type: ignore[misc]
    """Mixin that generates the counterfactual rollouts that rewards request. List it before a `MixedRowsTrainer`.

    `blank_letter`: the current policy greedily completes each distinct prompt of a generation batch once more, with
    every image replaced by a mid-gray image of the same size. These completions are additional rows of the same
    generation call. If generation is shared, the regular completions stay the same. Otherwise they are different
    samples of the same policy. Every process completes its own prompts. For a prompt without images, `blank_letter` is
    None.

    `own_image`: the second half of the completions of each prompt is generated with the images of another question of
    the data set (`OtherImages`). The loss and the log-probabilities of policy and reference use the images that the
    completion was generated with. Prompts without images and TRL's own evaluation do not change.

    `reward_func_names` must contain the names of the rewards in the configuration.
    """

    _noticed = False
    _blank_letters: list[str | None]
    greedy_prompts: Sequence[Any]

    def _requested(self, name: str) -> bool:
        return any_asks(self.reward_func_names, name)

    def _swaps_images(self) -> bool:
        return bool(self.model.training) and self._requested(OWN_IMAGE)

    @functools.cached_property
    def _other_images(self) -> OtherImages:
        others = OtherImages(self.train_dataset, self.args.seed)
        if others.without and self.accelerator.is_main_process:
            print(
                f"{others.without} questions have no other image: no question of another subject has the same modality "
                "and number of images. A mid-gray image is used, which a policy can tell from a real one.",
                file=sys.stderr,
            )
        return others

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self._swaps_images():
            size = self.num_generations
            # Rows are distributed over processes in order, so a group may begin in one and end in the next.
            first = self.accelerator.process_index * len(inputs)
            own = [(first + row) % size < size // 2 for row in range(len(inputs))]
            draw = functools.partial(self._other_images, step=self.state.global_step)
            inputs = with_counterfactual_images(inputs, own, draw)
        return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, *more: Any
    ) -> Any:
        # TRL sends one row per group to vLLM and assumes that its other rows are equal. Here only half of a group is.
        if self._swaps_images() and self.use_vllm and num_generations > 1:
            num_generations //= 2
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, *more)

    def _generate(self, prompts: list[Any]) -> Any:
        if not self._requested(BLANK_LETTER):
            return super()._generate(prompts)
        blanks = [_blanked(prompt) for prompt in prompts]
        rows = [row for row, blank in enumerate(blanks) if blank is not None]
        if len(rows) < len(prompts) and not self._noticed and self.accelerator.is_main_process:
            self._noticed = True
            print("Some prompts have no image. A reward that reads `blank_letter` gets None for them.", file=sys.stderr)
        firsts, owner = distinct([blanks[row] for row in rows])
        self.greedy_prompts = [blanks[rows[first]] for first in firsts]
        result = super()._generate(prompts)
        texts = self.processing_class.batch_decode(self.greedy_ids, skip_special_tokens=True)
        letters = {row: strict_letter(texts[number]) for row, number in zip(rows, owner, strict=True)}
        self._blank_letters = [letters.get(row) for row in range(len(prompts))]
        return result

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        if self._requested(OWN_IMAGE):
            inputs = [{OWN_IMAGE: True} | row for row in inputs]
            correct = accuracy_strict(prompts, completions, letter=[row["letter"] for row in inputs])
            for name, own in ((OWN_RIGHT, True), (OTHER_RIGHT, False)):
                self._log_mean(name, [c for c, row in zip(correct, inputs, strict=True) if row[OWN_IMAGE] == own])
        if self._requested(BLANK_LETTER):
            inputs = [{**row, BLANK_LETTER: letter} for row, letter in zip(inputs, self._blank_letters, strict=True)]
            illustrated = [row for row, prompt in zip(inputs, prompts, strict=True) if _images(prompt)]
            self._log_mean(BLANK_RIGHT, [row[BLANK_LETTER] == row["letter"] for row in illustrated])
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _log_mean(self, name: str, values: Sequence[float]) -> None:
        if values:
            self._log_metric(name, sum(values) / len(values))


class OtherImages:
    """Select the images of another question: same modality and number of images, but another subject.

    The choice depends only on the seed, the step and the question, so it is the same in all processes and resumed runs.

    Args:
        dataset: Result of `training.dataset.build_dataset`.
        seed: Seed of the choice.

    Attributes:
        without: Number of questions with images for which no other question qualifies.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._subjects: dict[str, str] = {}
        self._rows: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
        columns = ["sample_id", "subject", "modality", "images"]
        for index, row in enumerate(dataset.with_format(None).select_columns(columns)):
            self._subjects[row["sample_id"]] = row["subject"]
            self._rows[row["modality"], len(row["images"])].append((index, row["subject"]))
        alone = [rows for (_, images), rows in self._rows.items() if images and len({s for _, s in rows}) == 1]
        self.without = sum(map(len, alone))

    def __call__(self, row: Mapping[str, Any], *, step: int) -> list[Any] | None:
        """Choose images for a row that differ from its own; return None if no question has such images."""
        rows = self._rows[row["modality"], len(row["images"])]
        subject, own = self._subjects[row["sample_id"]], images_key(row["images"])
        start = random.Random(f"{self._seed} {step} {row['sample_id']}").randrange(len(rows))
        for index, other in (*rows[start:], *rows[:start]):
            if other != subject:
                images: list[Any] = self._dataset[index]["images"]
                if images_key(images) != own:
                    return images
        return None


def check_counterfactual(names: Sequence[str], args: Any) -> None:
    """Check that the groups of a run can be halved.

    Args:
        names: Names of the rewards of the run.
        args: `GRPOConfig` of the run.

    Raises:
        UserError: A reward needs counterfactual images, and the group size is odd.
    """
    if any_asks(names, OWN_IMAGE) and args.num_generations % 2:
        raise UserError(
            f"trainer.num_generations is {args.num_generations}; `grounded` and rewards like it need an even number, "
            f"as half of a group sees another image. Set it to {args.num_generations + 1}."
        )


def with_counterfactual_images(
    inputs: Sequence[Mapping[str, Any]], own: Sequence[bool], draw: Callable[[Mapping[str, Any]], list[Any] | None]
) -> list[dict[str, Any]]:
    """Add the column `own_image` to the rows of a generation batch, and replace the images of some rows.

    Args:
        inputs: Rows with `images` and `sample_id`.
        own: Whether each row keeps its own images. A row without images always counts as keeping them.
        draw: Returns other images for a row. If it returns None, mid-gray images of the same size are used.
    """
    others: dict[str, list[Any]] = {}
    result = []
    for row, keeps in zip(inputs, own, strict=True):
        name = row["sample_id"]
        if not keeps and row["images"] and name not in others:
            others[name] = draw(row) or [blank_like(image) for image in row["images"]]
        swapped = not keeps and bool(row["images"])
        result.append({**row, OWN_IMAGE: not swapped, **({"images": others[name]} if swapped else {})})
    return result


def _images(prompt: Any) -> bool:
    """Whether chat messages contain an image."""
    contents = [] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return any(piece["type"] == "image" for content in contents if isinstance(content, list) for piece in content)


def _blanked(prompt: Any) -> Any:
    """Chat messages with each image replaced by a blank image; None if they contain no image."""
    if not _images(prompt):
        return None
    return [
        {**message, "content": [_blanked_piece(piece) for piece in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]


def _blanked_piece(piece: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**piece, "image": blank_like(piece["image"])} if piece["type"] == "image" else piece
