"""Pass rates of the samples of a data folder, in the file `difficulty.jsonl`.

The pass rate of a sample is the share of a model's sampled completions that answer it correctly. A group of completions
teaches GRPO something only if some are correct and some are not (DAPO, arXiv 2503.14476, section 3.2).
`audit.difficulty` estimates pass rates. Training uses them if `data.pass_rate` or `data.order` is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from medvlm_r1.data.rows import AppendOnlyFile, append_rows, bad_row, read_json_lines
from medvlm_r1.errors import UserError

DIFFICULTY = "difficulty.jsonl"
_NEVER, _ALWAYS = "never correct", "always correct"
_STEP = 20


class PassRate(BaseModel, frozen=True):
    """One row of `difficulty.jsonl`. The file also stores the derived field `pass_rate` for human readers.

    Attributes:
        id: Id of the sample.
        answer: Correct answer of the sample at the time of the estimate.
        correct: Number of correct completions.
        samples: Number of completions.
        ci95: Wilson 95 % interval of the pass rate, fractions.
        cut_off: Number of completions cut off at the token limit.
        model: Name of the model, as given.
        template: Name of the prompt template.
        key: Everything that the completions depend on (the fields of `evaluation.store.AnswerKey`).
    """

    id: str
    answer: str
    correct: int
    samples: int
    ci95: tuple[float, float]
    cut_off: int
    model: str
    template: str
    key: dict[str, Any]

    @model_validator(mode="after")
    def _possible(self) -> PassRate:
        if not 0 <= self.correct <= self.samples or self.samples < 1:
            raise ValueError(f"{self.correct} of {self.samples} completions are correct")
        return self

    @property
    def value(self) -> float:
        """The pass rate, a fraction."""
        return self.correct / self.samples


def read_pass_rates(folder: Path | str) -> dict[str, PassRate]:
    """Read the `difficulty.jsonl` of a data folder. An unfinished last row of an interrupted estimate is ignored.

    Returns:
        The pass rates by sample id.

    Raises:
        UserError: The file is missing, a row is malformed, or an id occurs twice.
    """
    path = Path(folder) / DIFFICULTY
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with 'medvlm-r1 data difficulty {folder} --model MODEL'")
    rates: dict[str, PassRate] = {}
    for number, row in read_json_lines(path, growing=True):
        try:
            rate = PassRate.model_validate(row)
        except ValidationError as error:
            fault = error.errors()[0]
            what = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")
            raise bad_row(path, number, f"{what}; remove the row, and estimate it again") from error
        if rates.setdefault(rate.id, rate) is not rate:
            raise bad_row(path, number, f"the id {rate.id!r} has a pass rate already; remove one of the two rows")
    return rates


class DifficultyFile(AppendOnlyFile):
    """The `difficulty.jsonl` of a data folder, opened for appending. Use it in a `with` block.

    Attributes:
        rates: All pass rates by sample id, including those appended since the file was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.rates: dict[str, PassRate] = {}
        super().__init__(folder / DIFFICULTY)

    def read(self) -> None:
        """Read the stored pass rates if the file exists."""
        if self.path.exists():
            self.rates = read_pass_rates(self.path.parent)

    def append(self, rate: PassRate) -> None:
        """Append a pass rate to the file and force it to disk."""
        append_rows(self.path, [{**rate.model_dump(), "pass_rate": round(rate.value, 4)}])
        self.rates[rate.id] = rate


def histogram(rates: Iterable[PassRate]) -> dict[str, int]:
    """Number of samples by pass rate: never correct, five ranges of 20 points (lower end included), always correct."""
    ranges = [f"{start}-{start + _STEP} %" for start in range(0, 100, _STEP)]
    counts = dict.fromkeys((_NEVER, *ranges, _ALWAYS), 0)
    for rate in rates:
        ends = {0: _NEVER, rate.samples: _ALWAYS}
        counts[ends.get(rate.correct) or ranges[100 * rate.correct // rate.samples // _STEP]] += 1
    return counts
