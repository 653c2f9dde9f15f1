"""Rows of a data folder: usable rows, faulty rows with reasons, and the parts they form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medvlm_r1.data.check.findings import BadRow, Part
from medvlm_r1.data.folder import SAMPLES, read_info
from medvlm_r1.data.importing.draft import YOUR_OWN
from medvlm_r1.data.rows import read_json_lines
from medvlm_r1.data.sample import Sample, sample_from_row
from medvlm_r1.errors import UserError

_LONGEST_REASON = 300
Value = TypeVar("Value", int, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A data folder, read row by row.

    Attributes:
        path: As given.
        label: Short name for findings.
        reference: Given to compare with.
        source: Name and source from `info.json`; subjects of different sources are different ones. Of one's own
            questions without the name, which is the format of the file they were read from.
        samples: The good rows.
        bad: The others.
        info: The folder's `info.json`.
        splits: The splits among the samples, in order of appearance.
    """

    path: Path
    label: str
    reference: bool
    source: tuple[str, str]
    samples: list[Sample]
    bad: list[BadRow]
    splits: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def part_of(self, sample: Sample) -> str:
        """Name of the part a sample is in: the folder, or the split where the folder holds several."""
        return f"{self.label}/{sample.split or 'no split'}" if len(self.splits) > 1 else self.label

    def parts(self) -> list[Part]:
        """The parts the folder has, at least one."""
        if len(self.splits) < 2:
            return [self._part(self.label, "", self.samples)]
        groups = {split: [sample for sample in self.samples if sample.split == split] for split in self.splits}
        return [self._part(self.part_of(group[0]), split, group) for split, group in groups.items()]

    def _part(self, name: str, split: str, samples: Sequence[Sample]) -> Part:
        return Part(
            name=name,
            folder=str(self.path),
            split=split,
            reference=self.reference,
            samples=len(samples),
            images=len({image for sample in samples for image in sample.images}),
            without_image=sum(not sample.images for sample in samples),
            open_questions=sum(not sample.options for sample in samples),
            options=_counts(len(sample.options) for sample in samples if sample.options),
            modalities=_counts(sample.modality for sample in samples),
            question_types=_counts(sample.question_type for sample in samples),
        )


def read_rows(path: Path, label: str, *, reference: bool = False) -> Folder:
    """Read the usable rows of a data folder, and collect the faults of the others.

    Args:
        path: The data folder.
        label: Its name in findings.
        reference: Whether it is there to compare with.

    Returns:
        The folder. Its bad rows are those for which `read_folder` raises, every one of them.

    Raises:
        UserError: There is no `samples.jsonl`, or it or `info.json` cannot be read at all.
    """
    file = path / SAMPLES
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a data folder, as 'medvlm-r1 data import' makes it")
    info = read_info(path)
    name, source = str(info.get("name", "")), str(info.get("source", ""))
    samples: list[Sample] = []
    bad: list[BadRow] = []
    first_rows: dict[str, int] = {}

    def add_bad(row: int, reason: str, *, answer: bool = False) -> None:
        shown = reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + " ..."
        bad.append(BadRow(file=f"{label}/{SAMPLES}", row=row, kind="answer" if answer else "row", reason=shown))

    for number, row in read_json_lines(file, on_bad=add_bad):
        try:
            sample = sample_from_row(row)
        except ValueError as error:
            add_bad(number, str(error), answer=_answer_is_no_option(row))
            continue
        first = first_rows.setdefault(sample.id, number)
        if first != number:
            add_bad(number, f"the id {sample.id!r} is used in row {first} already; make the ids unique")
            continue
        samples.append(sample)
    return Folder(
        path=path,
        label=label,
        reference=reference,
        source=("" if source == YOUR_OWN else name, source),
        samples=samples,
        bad=bad,
        splits=tuple(dict.fromkeys(sample.split for sample in samples)),
        info=info,
    )


def _answer_is_no_option(row: dict[str, Any]) -> bool:
    options, answer = row.get("options"), row.get("answer")
    return isinstance(options, list) and bool(options) and isinstance(answer, str) and answer not in options


def _counts(values: Iterable[Value]) -> dict[Value, int]:
    return dict(sorted(Counter(values).items()))
