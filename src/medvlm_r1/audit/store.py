"""The answers of one audit on disk: `answers.jsonl` in the run folder, appended as they come and never rewritten.

A line holds the answers to some variants of one item, the question as it stands (without its record), the key they were
made under, and the plan: a name for the probes and items of the command. Lines of one item add up, so an audit that is
asked for further probes asks only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medvlm_r1.audit.variant import VariantAnswer
from medvlm_r1.data.rows import bad_row
from medvlm_r1.data.sample import Sample, row_from_sample, sample_from_row
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.log import AppendedLog, read_log
from medvlm_r1.evaluation.store import AnswerKey

ANSWERS = "answers.jsonl"
_NOT_STORED = ("split", "record", "missing")


@dataclass(slots=True, kw_only=True)
class StoredItem:
    """What was answered about one item.

    Attributes:
        sample: The question, without split, record and missing mark; None in a file that does not hold it.
        key: What the answers depend on; its pixels are those of the item and of the one shown in its place.
        answers: By name of the variant.
        plans: Under which plan each was answered, by name of the variant; "" in a file that does not hold it.
    """

    sample: Sample | None
    key: AnswerKey
    answers: dict[str, VariantAnswer]
    plans: dict[str, str] = field(default_factory=dict)

    def of_plan(self, plan: str) -> tuple[dict[str, VariantAnswer], dict[str, VariantAnswer]]:
        """The answers of other plans, and those of this one."""
        this = {name: answer for name, answer in self.answers.items() if self.plans.get(name) == plan}
        return {name: answer for name, answer in self.answers.items() if name not in this}, this


class AuditStore(AppendedLog):
    """Appends to a run folder's `answers.jsonl`, which no other process may do meanwhile; use it in a `with` block.

    Attributes:
        items: By sample id.
    """

    def __init__(self, folder: Path) -> None:
        self.items: dict[str, StoredItem] = {}
        super().__init__(folder, ANSWERS)

    def read(self) -> None:
        """Take up the items that are there."""
        self.items = read_items(self.path)

    def check(self, sample: Sample, key: AnswerKey) -> None:
        """Stop unless what is stored of an item was made from what is asked for now.

        The right answer is looked at too: a hint is at an option that was wrong when it was given.

        Raises:
            UserError: It was not; the message says what differs.
        """
        stored = self.items.get(sample.id)
        differences = stored.key.differences(key) if stored else []
        if stored and stored.sample is not None and stored.sample.answer != sample.answer:
            differences.append(f"right answer (then {stored.sample.answer!r}, now {sample.answer!r})")
        if differences:
            raise UserError(
                f"{self.path}: the answers to {sample.id!r} were made with another {', another '.join(differences)}; "
                "give another --out, or delete that folder to start again"
            )

    def append(self, answers: Iterable[tuple[Sample, AnswerKey, Mapping[str, VariantAnswer]]], plan: str) -> None:
        """Write the answers to some variants of items at once, and force them to disk."""
        lines = []
        for sample, key, some in answers:
            question = {name: value for name, value in row_from_sample(sample).items() if name not in _NOT_STORED}
            given = {name: asdict(answer) for name, answer in some.items()}
            row = {"id": sample.id, "answers": given, "key": asdict(key), "sample": question, "plan": plan}
            lines.append(json.dumps(row, ensure_ascii=False))
            item = self.items.setdefault(sample.id, StoredItem(sample=sample, key=key, answers={}))
            item.answers |= some
            item.plans |= dict.fromkeys(some, plan)
        self.write("\n".join(lines))
        self.force()


def read_items(path: Path) -> dict[str, StoredItem]:
    """What an audit's `answers.jsonl` holds, by sample id; the file is left as it is.

    Raises:
        UserError: A line is damaged, or does not belong to what stands before it; the message names file and row.
    """
    items: dict[str, StoredItem] = {}
    for number, row in read_log(path):
        try:
            key = AnswerKey(**row["key"])
            answers = {name: _answer(given) for name, given in row["answers"].items()}
            sample = sample_from_row(row["sample"]) if "sample" in row else None
            item = items.setdefault(row["id"], StoredItem(sample=sample, key=key, answers={}))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bad_row(
                path, number, f"not a line of `medvlm-r1 audit model` ({error!r}); give another folder"
            ) from error
        if item.key != key:
            raise bad_row(path, number, f"another key than in an earlier row of {row['id']!r}; remove one")
        item.answers |= answers
        item.plans |= dict.fromkeys(answers, str(row.get("plan", "")))
    return items


def _answer(given: Mapping[str, Any]) -> VariantAnswer:
    names = {one.name for one in fields(VariantAnswer)}
    if set(given) != names:
        raise ValueError(f"an answer has {', '.join(sorted(given))}; wanted {', '.join(sorted(names))}")
    shares = given["probabilities"]
    return VariantAnswer(**{**given, "probabilities": None if shares is None else tuple(shares)})
