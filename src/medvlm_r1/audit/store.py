"""The answers of one audit on disk: `answers.jsonl` in the run folder, appended item by item and never rewritten.

A line holds the answers to some variants of one item, and the key they were made under. Lines of one item add up, so an
audit that is asked for further probes asks only what is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from medvlm_r1.audit.variant import VariantAnswer
from medvlm_r1.data.rows import bad_row
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.store import AnswerKey, open_log, read_log

ANSWERS = "answers.jsonl"


@dataclass(slots=True, kw_only=True)
class StoredItem:
    """What was answered about one item.

    Attributes:
        key: What the answers depend on; its pixels are those of the item and of the one shown in its place.
        answers: By name of the variant.
    """

    key: AnswerKey
    answers: dict[str, VariantAnswer]


class AuditStore:
    """Appends to a run folder's `answers.jsonl`; use it in a `with` block.

    Attributes:
        path: The file.
        items: By sample id.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = folder / ANSWERS
            self.items: dict[str, StoredItem] = {}
            if self.path.exists():
                self._read()
            self._file = open_log(self.path)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; name a folder that can be written with --out") from error

    def _read(self) -> None:
        for number, row in read_log(self.path):
            try:
                key = AnswerKey(**row["key"])
                answers = {name: _answer(given) for name, given in row["answers"].items()}
                item = self.items.setdefault(row["id"], StoredItem(key=key, answers={}))
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise bad_row(
                    self.path, number, f"not a line of `medvlm-r1 audit model` ({error!r}); give another folder"
                ) from error
            if item.key != key:
                raise bad_row(self.path, number, f"another key than in an earlier row of {row['id']!r}; remove one")
            item.answers |= answers

    def check(self, sample_id: str, key: AnswerKey) -> None:
        """Stop unless what is stored of an item was made from what is asked for now.

        Raises:
            UserError: It was not; the message says what differs.
        """
        stored = self.items.get(sample_id)
        differences = stored.key.differences(key) if stored else []
        if differences:
            raise UserError(
                f"{self.path}: the answers to {sample_id!r} were made with another {', another '.join(differences)}; "
                "give another --out, or delete that folder to start again"
            )

    def append(self, sample_id: str, key: AnswerKey, answers: Mapping[str, VariantAnswer]) -> None:
        """Write the answers to some variants of an item and force them to disk."""
        row = {"id": sample_id, "answers": {name: asdict(answer) for name, answer in answers.items()}}
        self._file.write(json.dumps({**row, "key": asdict(key)}, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.items.setdefault(sample_id, StoredItem(key=key, answers={})).answers |= answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _answer(given: Mapping[str, Any]) -> VariantAnswer:
    names = {field.name for field in fields(VariantAnswer)}
    if set(given) != names:
        raise ValueError(f"an answer has {', '.join(sorted(given))}; wanted {', '.join(sorted(names))}")
    shares = given["probabilities"]
    return VariantAnswer(**{**given, "probabilities": None if shares is None else tuple(shares)})
