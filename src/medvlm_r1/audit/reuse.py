"""Reuse of an evaluation's answers in an audit, so that the question as it is need not be answered twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.variant import Variant, VariantAnswer, parsed_answer
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.store import REAL, AnswerKey, hash_pixels, read_answers

PLAN = "evaluation"
"""The plan under which a reused answer is stored."""


class EvaluationAnswers:
    """The answers of an evaluation.

    Args:
        folder: The run folder of the evaluation; None for no evaluation, which has no answers.
        ids: Of the items to audit.

    Raises:
        UserError: The folder has no answers, or none to these items.
    """

    def __init__(self, folder: Path | None, ids: Iterable[str]) -> None:
        self._folder = folder
        self._answers = {answer.sample.id: answer for answer in read_answers(folder)} if folder else {}
        if folder and self._answers.keys().isdisjoint(ids):
            raise UserError(
                f"{folder}: no answer to any of these questions; give an evaluation on the same data folder"
            )

    def find(self, item: ProbeInput, key: AnswerKey) -> VariantAnswer | None:
        """The answer to an item as the audit stores it; None where the evaluation did not answer it.

        Args:
            item: The item.
            key: The item's key in the audit.

        Raises:
            UserError: The answer was made with another model, prompt, image or setting.
        """
        answer = self._answers.get(item.sample.id)
        if answer is None:
            return None
        differences = answer.key.differences(replace(key, pixels=hash_pixels(item.images)))
        if answer.template != item.template:
            differences.append(f"template (then {answer.template}, now {item.template})")
        if differences:
            raise UserError(
                f"{self._folder}: the answer to {item.sample.id!r} was made with another "
                f"{', another '.join(differences)}; give another --evaluation, or leave it out"
            )
        generation = answer.generation
        return parsed_answer(
            Variant(name=REAL, sample=item.sample, images=item.images),
            generation.text,
            n_tokens=generation.n_tokens,
            truncated=generation.truncated,
            template=item.template,
        )
