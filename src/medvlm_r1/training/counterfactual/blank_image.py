"""Blank-image baseline: the policy's answers to the same questions with blank images, for rewards that use them.

A reward requests these answers with a parameter named `blank_letter`. If no reward does, nothing in this module runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trl import GRPOTrainer

from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.models.sharing.batch import distinct
from medvlm_r1.prompts.parser import strict_letter
from medvlm_r1.rewards import any_asks

COLUMN = "blank_letter"
BLANK_RIGHT = "blank_right"
"""Key in `metrics.jsonl`: fraction (0 to 1) of the prompts with images whose blank-image answer is correct."""


class BlankImageBaseline(GRPOTrainer):  # type: ignore[misc]
    """Mixin that generates blank-image answers for rewards that request them.

    List it before a `MixedRowsTrainer` in the base classes.

    The current policy greedily completes each distinct prompt of a generation batch once more, with every image
    replaced by a mid-gray image of the same size. These completions are additional rows of the same generation call.
    If generation is shared, the regular completions stay the same. Otherwise they are different samples of the same
    policy. Every process completes its own prompts. For a prompt without images, `blank_letter` is None.

    `reward_func_names` must contain the names of the rewards in the configuration.
    """

    _noticed = False
    _blank_letters: list[str | None]
    greedy_prompts: Sequence[Any]

    def _generate(self, prompts: list[Any]) -> Any:
        if not any_asks(self.reward_func_names, COLUMN):
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
        if any_asks(self.reward_func_names, COLUMN):
            inputs = [{**row, COLUMN: letter} for row, letter in zip(inputs, self._blank_letters, strict=True)]
            correct = [
                row[COLUMN] == row["letter"] for row, prompt in zip(inputs, prompts, strict=True) if _images(prompt)
            ]
            if correct:
                self._log_metric(BLANK_RIGHT, sum(correct) / len(correct))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


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
