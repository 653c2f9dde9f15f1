"""Runs of a report, read from their folders: training runs, evaluations and model audits."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import TypeAdapter, ValidationError

from medvlm_r1.audit.collect import partners, probe_input
from medvlm_r1.audit.probe import ProbeInput, ProbeResult
from medvlm_r1.audit.registry import QUESTIONS
from medvlm_r1.audit.runner import FIGURES
from medvlm_r1.audit.store import StoredItem, read_items
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.paths import telling_names
from medvlm_r1.data.rows import read_json_lines
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation import store

METRICS = "metrics.jsonl"
_LEVELS = ("pass", "warn", "fail", "not run")
_NEEDED = ("model", "data", "data_from_run", "template", "max_new_tokens", "n", "n_left_out", "n_missing", "verdicts")
_COUNTS = ("variants", "unparsed", "cut_off", "empty", "not_well_formed")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    """The audit of a model.

    Attributes:
        record: Content of `audit.json`, without the results of the probes.
        probes: Results by probe name.
        items: Answers by sample id.
        data: The data folder, or None if it no longer exists.
    """

    record: Mapping[str, Any]
    probes: Mapping[str, ProbeResult]
    items: Mapping[str, StoredItem]
    data: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run of the report. A training run has metrics; an evaluation has results and answers.

    Attributes:
        results: content of an evaluation's `results.json`.
        answers: answers of the evaluation.
        data: the data folder with the images, or None if it no longer exists.
        metrics: rows of a training run's `metrics.jsonl`.
        pass_rates: selection of the training samples by pass rate, from a training run's `data.json`.
        audit: the audit of a model.
    """

    results: Mapping[str, Any] | None = None
    answers: tuple[store.StoredAnswer, ...] = ()
    data: Path | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    pass_rates: Mapping[str, Any] | None = None
    audit: AuditView | None = None


def load_run(folder: Path | str, *, training: Path | str | None = None) -> RunView:
    """Read the folder of an evaluation, training or audit; optionally combine an evaluation with its training.

    Args:
        folder: an evaluation (`results.json`, `answers.jsonl`), a training (`metrics.jsonl`) or the audit of a model
            (`audit.json`, `answers.jsonl`).
        training: folder of the training run whose curves are added to the evaluation in `folder`.

    Raises:
        UserError: the folder is none of these, or a file in it cannot be read.
    """
    folder = Path(folder)
    log = (folder if training is None else Path(training)) / METRICS
    metrics = tuple(row for _, row in read_json_lines(log, growing=True)) if log.is_file() else ()
    if training is not None and not metrics:
        raise UserError(f"{training}: no {METRICS} with a row in it; expected the folder of a training")
    audit = load_audit(folder) if (folder / FIGURES).is_file() else None
    is_training = (folder / METRICS).is_file()
    # The `results.json` of a training folder contains results of the training, not of an evaluation.
    if (folder / store.RESULTS).is_file() and not is_training:
        results, answers = store.read_results(folder), tuple(store.read_answers(folder))
        return RunView(results=results, answers=answers, data=_data(folder, results), metrics=metrics, audit=audit)
    if audit is None and not is_training:
        verbs = {"an evaluation": "medvlm-r1 eval", "a model audit": "medvlm-r1 audit model"}
        kind = store.answers_kind(folder / store.ANSWERS)
        hint = f"; it has {store.ANSWERS} only: run the same `{verbs[kind]}` again to finish it" if kind else ""
        raise UserError(
            f"{folder}: neither {store.RESULTS} of an evaluation nor {METRICS} of a training nor {FIGURES} of an audit"
            f" is in it{hint}"
        )
    described = folder / "data.json"
    try:
        data = json.loads(described.read_text(encoding="utf-8")) if is_training and described.is_file() else {}
        pass_rates = data.get("train", {}).get("pass_rates")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{described}: not the data of a training ({error}); restore it, or remove it") from error
    return RunView(metrics=metrics, pass_rates=pass_rates, audit=audit)


def load_runs(folders: Iterable[Path | str]) -> dict[str, RunView]:
    """Read several run folders. Each run is named after its folder, with parent folders if names collide.

    Raises:
        UsageError: a folder is given twice, or no folder is given.
        UserError: see `load_run`.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise UsageError("no run folder given; expected at least one")
    return {name: load_run(path) for name, path in zip(telling_names(paths), paths, strict=True)}


def load_audit(folder: Path) -> AuditView:
    """Read a finished model audit.

    Raises:
        UserError: A file is missing or malformed.
    """
    path = folder / FIGURES
    again = "run the same `medvlm-r1 audit model` again to rewrite it"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in _NEEDED if name not in record]
        absent += [f"answers.{name}" for name in _COUNTS if name not in record["answers"]]
        absent += [f"verdicts.{name}" for name in QUESTIONS if record["verdicts"].get(name, "not run") not in _LEVELS]
        if absent:
            raise UserError(f"{path}: no {', '.join(absent)} in it; {again}")
        probes = TypeAdapter(dict[str, ProbeResult]).validate_python(record.pop("probes"))
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: not the figures of an audit ({field}: {fault['msg']}); {again}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not the figures of an audit ({error!r}); {again}") from error
    log = folder / store.ANSWERS
    if not log.is_file():
        raise UserError(f"{log}: no such file; expected the answers of {FIGURES}")
    return AuditView(record=record, probes=probes, items=read_items(log), data=_data(folder, record))


class Pictures:
    """Images of an audit's items, from the current data folder.

    Args:
        view: The audit.
    """

    def __init__(self, view: AuditView) -> None:
        self._view = view
        self._rows: list[store.Row] = []
        self.note = ""
        """Message that explains why images are not shown; empty if they are shown."""
        if view.data is None:
            self.note = "The data folder no longer exists: questions are shown without images."
        else:
            try:
                self._rows = [row for row in enumerate(read_folder(view.data), start=1) if row[1].id in view.items]
            except UserError:
                self.note = "The data folder can no longer be read: questions are shown without images."
        samples = [sample for _, sample in self._rows]
        self._partner = dict(zip((sample.id for sample in samples), enumerate(partners(samples)), strict=True))

    def inputs(self, sample_id: str) -> ProbeInput | None:
        """Return the probe input of an item; None if its images are gone or have changed."""
        index, partner = self._partner.get(sample_id, (None, None))
        try:
            images, others = self._load(index), self._load(partner)
        except UserError:
            return None
        if index is None or store.hash_pixels([*images, *others]) != self._view.items[sample_id].key.pixels:
            return None
        return probe_input(self._rows[index][1], images, others, self._view.record["template"])

    def _load(self, index: int | None) -> list[Image]:
        data = self._view.data
        return [] if index is None or data is None else store.load_row_images(data, self._rows[index])


def _data(folder: Path, results: Mapping[str, Any]) -> Path | None:
    """Return the data folder at its stored path, or else at its path relative to the run; None if it is at neither."""
    candidates = (Path(results["data"]), folder / results["data_from_run"])
    return next((path for path in candidates if path.is_dir()), None)
