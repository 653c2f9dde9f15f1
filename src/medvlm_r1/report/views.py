"""What a report shows of a run, read from its folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.audit.runner import FIGURES as AUDIT
from medvlm_r1.data.paths import telling_names
from medvlm_r1.data.rows import read_json_lines
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation.store import ANSWERS, RESULTS, StoredAnswer, answers_kind, read_answers, read_results
from medvlm_r1.report.audit.model_view import AuditView, find_data, is_audit, load_audit

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One row of the report. Any part may be absent: a training has curves, an evaluation figures and answers.

    Attributes:
        results: the figures of an evaluation, as in its `results.json`.
        answers: its answers.
        data: the data folder with the images, None when it is not there any more.
        metrics: rows of a training's `metrics.jsonl`.
        audit: the audit of a model.
    """

    results: Mapping[str, Any] | None = None
    answers: tuple[StoredAnswer, ...] = ()
    data: Path | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()
    audit: AuditView | None = None


def load_run(folder: Path | str, *, training: Path | str | None = None) -> RunView:
    """Read an evaluation, a training or an audit folder, or an evaluation together with the training it belongs to.

    Args:
        folder: an evaluation (`results.json`, `answers.jsonl`), a training (`metrics.jsonl`) or the audit of a model
            (`audit.json`, `answers.jsonl`).
        training: where the curves are, when `folder` is an evaluation.

    Raises:
        UserError: the folder is none of these, or a file in it cannot be read.
    """
    folder = Path(folder)
    curves = folder if training is None else Path(training)
    metrics = (
        tuple(row for _, row in read_json_lines(curves / METRICS, growing=True)) if (curves / METRICS).is_file() else ()
    )
    if training is not None and not metrics:
        raise UserError(f"{curves}: no {METRICS} with a row in it; wanted the folder of a training")
    audit = load_audit(folder) if is_audit(folder) else None
    # In a training folder these are figures of the training, not of a test.
    if (folder / RESULTS).is_file() and not (folder / METRICS).is_file():
        results = read_results(folder)
        return RunView(
            results=results,
            answers=tuple(read_answers(folder)),
            data=find_data(folder, results),
            metrics=metrics,
            audit=audit,
        )
    if audit is None and not (folder / METRICS).is_file():
        verbs = {"an evaluation": "medvlm-r1 eval", "a model audit": "medvlm-r1 audit model"}
        kind = answers_kind(folder / ANSWERS)
        hint = f"; it has {ANSWERS} only: run the same `{verbs[kind]}` again to finish it" if kind else ""
        raise UserError(
            f"{folder}: neither {RESULTS} of an evaluation nor {METRICS} of a training nor {AUDIT} of an audit is in"
            f" it{hint}"
        )
    return RunView(metrics=metrics, audit=audit)


def load_runs(folders: Iterable[Path | str]) -> dict[str, RunView]:
    """Read several run folders, named after the folder, with its parents' names where two would be called the same.

    Raises:
        UsageError: a folder is given twice, or none at all.
        UserError: as `load_run`.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise UsageError("no run folder given; wanted at least one")
    return {name: load_run(path) for name, path in zip(telling_names(paths), paths, strict=True)}
