"""Blank-image baseline: the policy's own answers to blank images, for rewards that compare with them.

A reward requests them by a parameter named `blank_letter`. Without such a reward nothing here runs.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.models.sharing.batch import distinct
from medvlm_r1.prompts.parser import strict_letter
from medvlm_r1.rewards import asks, resolve_reward

COLUMN = "blank_letter"
BLANK_RIGHT = "blank_right"
"""Key in `metrics.jsonl`: share of the prompts with an image whose blank-image answer is correct (0 to 1)."""


class BlankImageBaseline:
    """Mixin before a `GRPOTrainer` whose rewards carry their names in the configuration.

    If a reward requests it, the current policy greedily completes each distinct prompt of a generation batch once more,
    with every image replaced by a mid-gray one of the same size. These completions are generated like all others
    (shared prompts, autocast, gathered weights), with dropout off. The random state is restored afterwards, so that a
    resumed run takes the same steps. Every process completes its own prompts. A prompt without an image has the
    `blank_letter` None.
    """

    _noticed = False

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        trainer: Any = self
        if any(asks(resolve_reward(name), COLUMN) for name in trainer.reward_func_names):
            letters = self._blank_letters(inputs, prompts)
            inputs = [{**row, COLUMN: letter} for row, letter in zip(inputs, letters, strict=True)]
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]

    def _blank_letters(self, inputs: Sequence[Mapping[str, Any]], prompts: Sequence[Any]) -> list[str | None]:
        """The letter answered to the prompt of each row with blank images."""
        trainer: Any = self
        blanks = [_blanked(prompt) for prompt in prompts]
        rows = [row for row, blank in enumerate(blanks) if blank is not None]
        if len(rows) < len(prompts) and not self._noticed and trainer.accelerator.is_main_process:
            self._noticed = True
            print(
                "Some prompts have no image. A reward that reads `blank_letter` gets None for them.",
                file=sys.stderr,
            )
        letters: list[str | None] = [None] * len(prompts)
        if not rows:
            return letters
        firsts, owner = distinct([blanks[row] for row in rows])
        answers = self._greedy([blanks[rows[first]] for first in firsts])
        for row, number in zip(rows, owner, strict=True):
            letters[row] = answers[number]
        correct = [letters[row] == inputs[row]["letter"] for row in rows]
        trainer._log_metric(BLANK_RIGHT, sum(correct) / len(correct))
        return letters

    def _greedy(self, prompts: list[Any]) -> list[str | None]:
        trainer: Any = self
        device = trainer.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self._greedily():
            ids, _ = trainer._generate_single_turn(*trainer._tokenize_prompts(prompts), 1)
        return [strict_letter(text) for text in trainer.processing_class.batch_decode(ids, skip_special_tokens=True)]

    @contextmanager
    def _greedily(self) -> Iterator[None]:
        """Decode greedily and without dropout."""
        trainer: Any = self
        training = trainer.model.training
        config = getattr(trainer, "generation_config", None)
        vllm = trainer.vllm_generation if trainer.use_vllm else None
        temperature = vllm.temperature if vllm is not None else None
        trainer.model.eval()
        if config is not None:
            trainer.generation_config = _greedy_config(config)
        if vllm is not None:
            vllm.temperature = 0.0
        try:
            yield
        finally:
            trainer.model.train(training)
            if config is not None:
                trainer.generation_config = config
            if vllm is not None:
                vllm.temperature = temperature


def _greedy_config(config: Any) -> Any:
    greedy = copy.deepcopy(config)
    # transformers warns of sampling settings other than its defaults in greedy decoding.
    greedy.update(do_sample=False, temperature=1.0, top_k=50, top_p=1.0, min_p=None)
    return greedy


def _blanked(prompt: Any) -> Any:
    """Chat messages with their images replaced by blank ones; None if there are none."""
    if isinstance(prompt, str):
        return None
    messages = [
        {**message, "content": [_blanked_part(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return messages if any(part["type"] == "image" for part in parts) else None


def _blanked_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**part, "image": blank_like(part["image"])} if part["type"] == "image" else part
