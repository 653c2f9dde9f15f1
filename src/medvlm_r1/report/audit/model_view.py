"""Model audit of a report, read from its run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medvlm_r1.audit.collect import partners
from medvlm_r1.audit.probe import ProbeInput, ProbeResult
from medvlm_r1.audit.registry import QUESTIONS
from medvlm_r1.audit.runner import FIGURES
from medvlm_r1.audit.store import StoredItem, read_items
from medvlm_r1.audit.variant import item_seed
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.rows import load_row_images
from medvlm_r1.evaluation.store import ANSWERS, hash_pixels

_LEVELS = ("pass", "warn", "fail", "not run")
_NEEDED = ("model", "data", "data_from_run", "template", "max_new_tokens", "n", "n_open", "n_missing", "verdicts")
_COUNTS = ("variants", "unparsed", "cut_off", "empty", "not_well_formed")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """One audit.

    Attributes:
        record: `audit.json`, without its probes.
        probes: Results by probe name.
        items: Answers by sample id.
        data: The data folder, or None if it no longer exists.
    """

    record: Mapping[str, Any]
    probes: Mapping[str, ProbeResult]
    items: Mapping[str, StoredItem]
    data: Path | None


class Pictures:
    """Images of an audit's items, from the current data folder.

    Args:
        view: The audit.
    """

    def __init__(self, view: AuditView) -> None:
        self._view = view
        self._rows: dict[str, tuple[int, Sample]] = {}
        self.note = "" if view.data else "The data folder no longer exists: questions are shown without images."
        """Why images are not shown, as a message; empty if they are."""
        if view.data:
            try:
                rows = enumerate(read_folder(view.data), start=1)
                self._rows = {sample.id: (row, sample) for row, sample in rows if sample.id in view.items}
            except UserError:
                self.note = "The data folder can no longer be read: questions are shown without images."
        samples = [sample for _, sample in self._rows.values()]
        self._partner = {
            sample.id: None if index is None else samples[index].id
            for sample, index in zip(samples, partners(samples), strict=True)
        }

    def inputs(self, sample_id: str) -> ProbeInput | None:
        """Return the probe input of an item; None if its images are gone or have changed."""
        if sample_id not in self._rows:
            return None
        _, sample = self._rows[sample_id]
        partner = self._partner[sample_id]
        try:
            images, others = self._load(sample_id), [] if partner is None else self._load(partner)
        except UserError:
            return None
        if hash_pixels([*images, *others]) != self._view.items[sample_id].key.pixels:
            return None
        return ProbeInput(
            sample=sample,
            images=tuple(images),
            others=tuple(others),
            seed=item_seed(sample),
            template=self._view.record["template"],
        )

    def _load(self, sample_id: str) -> Sequence[Any]:
        assert self._view.data is not None
        return load_row_images(self._view.data, self._rows[sample_id])


def is_audit(folder: Path) -> bool:
    """Whether a folder contains a finished model audit."""
    return (folder / FIGURES).is_file()


def load_audit(folder: Path) -> AuditView:
    """Read a finished audit.

    Raises:
        UserError: A file is missing or malformed.
    """
    path = folder / FIGURES
    again = "run the same `medvlm-r1 audit model` again to rewrite it"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in _NEEDED if name not in record]
        absent += [f"answers.{name}" for name in _COUNTS if name not in record["answers"]]
        absent += [f"verdicts.{name}" for name in QUESTIONS if record["verdicts"].get(name) not in _LEVELS]
        if absent:
            raise UserError(f"{path}: no {', '.join(absent)} in it; {again}")
        probes = TypeAdapter(dict[str, ProbeResult]).validate_python(record.pop("probes"))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: not the figures of an audit ({field}: {fault['msg']}); {again}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the figures of an audit ({error!r}); {again}") from error
    log = folder / ANSWERS
    if not log.is_file():
        raise UserError(f"{log}: no such file; expected the answers of {FIGURES}")
    return AuditView(record=record, probes=probes, items=read_items(log), data=find_data(folder, record))


def find_data(folder: Path, results: Mapping[str, Any]) -> Path | None:
    """Return the data folder by its stored path, or relative to the run if both were moved."""
    candidates = (Path(results["data"]), folder / results["data_from_run"])
    return next((path for path in candidates if path.is_dir()), None)
