"""The answer store of an audit: the append-only `answers.jsonl` of its run folder.

The schema is that of `medvlm_r1.evaluation.store`: one row per answer. Rows of an audit add the `option` chosen, the
`probabilities` of the options where only the letter was asked for, the probe's `note`, and the `plan`, a hash of the
probes and items of the command. An audit that is run again with more probes asks only the missing variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.variant import VariantAnswer, answer_from_generation
from medvlm_r1.data.rows import AppendOnlyFile, append_rows, bad_row, read_json_lines
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.store import (
    ANSWERS,
    REAL,
    START_AGAIN,
    AnswerKey,
    StoredQuestion,
    hash_pixels,
    question_from_row,
    read_answers,
    row_from_question,
    stored_differences,
)

REUSED = "evaluation"
"""The plan under which an answer of an evaluation is stored."""

_ANSWER_FIELDS = tuple(field.name for field in fields(VariantAnswer))


@dataclass(slots=True, kw_only=True)
class StoredItem(StoredQuestion):
    """The stored answers to one item. The pixels of its key are those of its images and of the swapped-in ones.

    Attributes:
        answers: By name of the variant.
        plans: The plan of each answer, by name of the variant.
    """

    answers: dict[str, VariantAnswer] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)

    def of_plan(self, plan: str) -> tuple[dict[str, VariantAnswer], dict[str, VariantAnswer]]:
        """The answers of other plans, and those of this one."""
        this = {name: answer for name, answer in self.answers.items() if self.plans[name] == plan}
        return {name: answer for name, answer in self.answers.items() if name not in this}, this


class AuditStore(AppendOnlyFile):
    """The `answers.jsonl` of an audit, opened for appending. Use it in a `with` block.

    Attributes:
        items: By sample id.
    """

    def __init__(self, folder: Path) -> None:
        self.items: dict[str, StoredItem] = {}
        super().__init__(folder / ANSWERS)

    def read(self) -> None:
        """Read the stored answers."""
        if self.path.exists():
            self.items = read_items(self.path)

    def has(self, sample_id: str, name: str) -> bool:
        """Whether an answer to a variant of an item is stored."""
        return sample_id in self.items and name in self.items[sample_id].answers

    def check(self, sample: Sample, key: AnswerKey) -> None:
        """Refuse to mix answers: the stored ones must have today's key and correct option.

        The correct option counts because a hint points at a wrong one.

        Raises:
            UserError: They differ; the message says how.
        """
        stored = self.items.get(sample.id)
        if stored and (differences := stored_differences(stored, sample, key)):
            raise UserError(
                f"{self.path}: the answers to {sample.id!r} were made with another {', another '.join(differences)}; "
                f"{START_AGAIN}"
            )

    def append(self, answers: Iterable[tuple[Sample, AnswerKey, Mapping[str, VariantAnswer]]], plan: str) -> None:
        """Write answers to some variants of items and force them to disk."""
        rows = []
        for sample, key, variants in answers:
            same = {"key": asdict(key), "plan": plan}
            rows += [
                {**row_from_question(sample), "variant": name, **asdict(answer), **same}
                for name, answer in variants.items()
            ]
            item = self.items.setdefault(sample.id, StoredItem(sample=sample, key=key))
            item.answers |= variants
            item.plans |= dict.fromkeys(variants, plan)
        append_rows(self.path, rows)


def read_items(path: Path) -> dict[str, StoredItem]:
    """The items of an audit's `answers.jsonl`, by sample id. The file is not changed.

    Raises:
        UserError: A row is damaged, contradicts an earlier one, or was written by version 0.1.
    """
    items: dict[str, StoredItem] = {}
    for number, row in read_json_lines(path, growing=True):
        if "answers" in row:
            raise bad_row(
                path, number, "written by version 0.1, which stored an item per row; audit again into another folder"
            )
        try:
            key = AnswerKey(**row["key"])
            answer = VariantAnswer(**{name: row[name] for name in _ANSWER_FIELDS})
            if answer.probabilities is not None:
                answer = replace(answer, probabilities=tuple(answer.probabilities))
            name, plan = str(row["variant"]), str(row["plan"])
            item = items.setdefault(row["id"], StoredItem(sample=question_from_row(row), key=key))
        except (KeyError, TypeError, ValueError) as error:
            raise bad_row(
                path, number, f"not an answer of `medvlm-r1 audit model` ({error!r}); give another folder"
            ) from error
        if item.key != key:
            raise bad_row(path, number, f"another key than in an earlier row of {row['id']!r}; remove one")
        item.answers[name] = answer
        item.plans[name] = plan
    return items


class EvaluationAnswers:
    """The answers of an evaluation, so that the question as it is need not be answered twice.

    Args:
        folder: The run folder of the evaluation; None for no evaluation, which has no answers.
        ids: Ids of the items to audit.

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
        return answer_from_generation(item.variant(REAL), answer.generation, item.template)
