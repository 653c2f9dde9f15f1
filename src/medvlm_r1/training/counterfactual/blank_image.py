"""Blank-image baseline: the policy's own answers to blank images, for rewards that compare with them.

A reward requests them by a parameter named `blank_letter`. Without such a reward nothing here runs.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
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
    with every image replaced by a mid-gray one of the same size. Where generation is shared, these are further rows of
    the same call. Otherwise they are a second call, with dropout off. The draws of the other completions do not change.
    Every process completes its own prompts. A prompt without an image has the `blank_letter` None.
    """

    _noticed = False
    _blank_letters: list[str | None]

    def _generate(self, prompts: list[Any]) -> Any:
        trainer: Any = self
        if not self._wants_blank_letters():
            return super()._generate(prompts)  # type: ignore[misc]
        blanks = [_blanked(prompt) for prompt in prompts]
        rows = [row for row, blank in enumerate(blanks) if blank is not None]
        if len(rows) < len(prompts) and not self._noticed and trainer.accelerator.is_main_process:
            self._noticed = True
            print("Some prompts have no image. A reward that reads `blank_letter` gets None for them.", file=sys.stderr)
        firsts, owner = distinct([blanks[row] for row in rows])
        questions = [blanks[rows[first]] for first in firsts]
        if getattr(trainer, "shares_generation", False):
            trainer.greedy_prompts = questions
            result, ids = super()._generate(prompts), trainer.greedy_ids  # type: ignore[misc]
        else:
            result, ids = super()._generate(prompts), self._greedy(questions) if questions else []  # type: ignore[misc]
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        letters = {row: strict_letter(texts[number]) for row, number in zip(rows, owner, strict=True)}
        self._blank_letters = [letters.get(row) for row in range(len(prompts))]
        return result

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: Any
    ) -> Any:
        trainer: Any = self
        if self._wants_blank_letters():
            inputs = [{**row, COLUMN: letter} for row, letter in zip(inputs, self._blank_letters, strict=True)]
            correct = [
                row[COLUMN] == row["letter"] for row, prompt in zip(inputs, prompts, strict=True) if _images(prompt)
            ]
            if correct:
                trainer._log_metric(BLANK_RIGHT, sum(correct) / len(correct))
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # type: ignore[misc]

    def _wants_blank_letters(self) -> bool:
        trainer: Any = self
        return any(asks(resolve_reward(name), COLUMN) for name in trainer.reward_func_names)

    def _greedy(self, prompts: list[Any]) -> list[list[int]]:
        """Completions of a call of their own."""
        trainer: Any = self
        device = trainer.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self._greedily():
            ids, _ = trainer._generate_single_turn(*trainer._tokenize_prompts(prompts), 1)
        return list(ids)

    @contextmanager
    def _greedily(self) -> Iterator[None]:
        """Decode greedily and without dropout."""
        trainer: Any = self
        training = trainer.model.training
        # vLLM takes its settings from its own object.
        owner, name = (trainer.vllm_generation, "temperature") if trainer.use_vllm else (trainer, "generation_config")
        setting = getattr(owner, name)
        trainer.model.eval()
        setattr(owner, name, 0.0 if trainer.use_vllm else _greedy_config(setting))
        try:
            yield
        finally:
            trainer.model.train(training)
            setattr(owner, name, setting)


def _greedy_config(config: Any) -> Any:
    greedy = copy.deepcopy(config)
    # transformers warns of sampling settings other than its defaults in greedy decoding.
    greedy.update(do_sample=False, temperature=1.0, top_k=50, top_p=1.0, min_p=None)
    return greedy


def _images(prompt: Any) -> bool:
    """Whether chat messages have an image."""
    contents = [] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return any(part["type"] == "image" for content in contents if isinstance(content, list) for part in content)


def _blanked(prompt: Any) -> Any:
    """Chat messages with their images replaced by blank ones; None if there are none."""
    if not _images(prompt):
        return None
    return [
        {**message, "content": [_blanked_part(part) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in prompt
    ]


def _blanked_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**part, "image": blank_like(part["image"])} if part["type"] == "image" else part
