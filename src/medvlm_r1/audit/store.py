"""The answer store of an audit: the append-only `answers.jsonl` in its run folder.

The file has the schema of `medvlm_r1.evaluation.store`, with one row per answer. Rows of an audit have four more
fields: the chosen `option`, the `probabilities` of the options of a letter-only variant, the probe's `note`, and the
`plan`. The plan is a hash of the probes and items of the command. If an audit is repeated with more probes, only the
missing variants are computed.
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
    AnswerKey,
    StoredQuestion,
    hash_pixels,
    question_from_row,
    read_answers,
    row_from_question,
)

REUSED = "evaluation"
"""The `plan` of answers that were copied from an evaluation."""

_ANSWER_FIELDS = tuple(field.name for field in fields(VariantAnswer))


@dataclass(slots=True, kw_only=True)
class StoredItem(StoredQuestion):
    """The stored answers to one item.

    The pixel hash in its key covers its own images and the images of its partner (see `collect.partners`).

    Attributes:
        answers: The answers by name of the variant.
        plans: The plan of each answer, by name of the variant.
    """

    answers: dict[str, VariantAnswer] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)


class AuditStore(AppendOnlyFile):
    """The `answers.jsonl` of an audit, opened for appending. Use it in a `with` block.

    Attributes:
        items: The stored items by sample id.
    """

    def __init__(self, folder: Path) -> None:
        self.items: dict[str, StoredItem] = {}
        super().__init__(folder / ANSWERS)

    def read(self) -> None:
        """Read the stored answers if the file exists."""
        if self.path.exists():
            self.items = read_items(self.path)

    def open_item(self, sample: Sample, key: AnswerKey) -> StoredItem:
        """Return an item with its stored answers, if any; the answers must have the same key and correct option.

        The correct option is compared because it determines which options the hints may name.

        Raises:
            UserError: The key or the correct option differs; the message lists the differences.
        """
        item = self.items.setdefault(sample.id, StoredItem(sample=sample, key=key))
        item.check(self.path, sample, key)
        return item

    def append(self, answers: Mapping[str, Mapping[str, VariantAnswer]], plan: str) -> None:
        """Append answers to opened items, by sample id and name of the variant, and force them to disk.

        Args:
            answers: The answers.
            plan: The plan that is stored with them.
        """
        rows = []
        for sample_id, variants in answers.items():
            item = self.items[sample_id]
            same = {"key": asdict(item.key), "plan": plan}
            question = row_from_question(item.sample)
            rows += [{**question, "variant": name, **asdict(answer), **same} for name, answer in variants.items()]
            item.answers |= variants
            item.plans |= dict.fromkeys(variants, plan)
        append_rows(self.path, rows)


def read_items(path: Path) -> dict[str, StoredItem]:
    """Read the items of an audit's `answers.jsonl`, by sample id. The file is not changed.

    Raises:
        UserError: A row is malformed, has another key than an earlier row of its item, or was written by version 0.1.
    """
    items: dict[str, StoredItem] = {}
    for number, row in read_json_lines(path, growing=True):
        if "answers" in row:
            old = "written by version 0.1, which stored an item per row; audit again into another folder"
            raise bad_row(path, number, old)
        try:
            key = AnswerKey(**row["key"])
            answer = VariantAnswer(**{name: row[name] for name in _ANSWER_FIELDS})
            if answer.probabilities is not None:
                answer = replace(answer, probabilities=tuple(answer.probabilities))
            name, plan = str(row["variant"]), str(row["plan"])
            item = items.setdefault(row["id"], StoredItem(sample=question_from_row(row), key=key))
        except (KeyError, TypeError, ValueError) as error:
            fault = f"not an answer of `medvlm-r1 audit model` ({error!r}); give another folder"
            raise bad_row(path, number, fault) from error
        if item.key != key:
            raise bad_row(path, number, f"another key than in an earlier row of {row['id']!r}; remove one")
        item.answers[name] = answer
        item.plans[name] = plan
    return items


class EvaluationAnswers:
    """The answers of an evaluation, which are reused so that the original questions are not answered again.

    Args:
        folder: The run folder of the evaluation; None if no evaluation is reused.
        ids: Ids of the items to audit.

    Raises:
        UserError: The folder has no answers, or no answers to these items.
    """

    def __init__(self, folder: Path | None, ids: Iterable[str]) -> None:
        self._folder = folder
        self._answers = {answer.sample.id: answer for answer in read_answers(folder)} if folder else {}
        if folder and self._answers.keys().isdisjoint(ids):
            raise UserError(
                f"{folder}: no answer to any of these questions; give an evaluation on the same data folder"
            )

    def find(self, item: ProbeInput, key: AnswerKey) -> VariantAnswer | None:
        """The evaluation's answer to an item, converted to an audit answer; None if the evaluation did not answer it.

        Args:
            item: The item.
            key: The item's answer key in the audit.

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
