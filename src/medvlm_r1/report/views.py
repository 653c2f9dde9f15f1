"""What a report shows of a run, read from its folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation.store import ANSWERS, RESULTS, StoredAnswer, read_answers, read_log, read_results

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One row of the report. Any part may be absent: a training has curves, an evaluation has figures and answers.

    Attributes:
        results: the figures of an evaluation, as in its `results.json`.
        answers: its answers.
        data: the data folder with the images, None when it is not there any more.
        metrics: rows of a training's `metrics.jsonl`.
    """

    results: Mapping[str, Any] | None = None
    answers: tuple[StoredAnswer, ...] = ()
    data: Path | None = None
    metrics: tuple[Mapping[str, Any], ...] = ()


def load_run(folder: Path | str, *, training: Path | str | None = None) -> RunView:
    """Read an evaluation folder, a training folder, or an evaluation together with the training it belongs to.

    Args:
        folder: an evaluation (`results.json`, `samples.jsonl`) or a training (`metrics.jsonl`).
        training: where the curves are, when `folder` is an evaluation.

    Raises:
        UserError: the folder is neither, or a file in it cannot be read.
    """
    folder = Path(folder)
    curves = folder if training is None else Path(training)
    metrics = tuple(row for _, row in read_log(curves / METRICS)) if (curves / METRICS).is_file() else ()
    if training is not None and not metrics:
        raise UserError(f"{curves}: no {METRICS} with a row in it; wanted the folder of a training")
    # A training folder's own samples.jsonl holds rollouts, not answers to a test.
    if (folder / RESULTS).is_file() and not (folder / METRICS).is_file():
        results = read_results(folder)
        return RunView(
            results=results, answers=tuple(read_answers(folder)), data=_data_folder(folder, results), metrics=metrics
        )
    if not (folder / METRICS).is_file():
        hint = (
            f"; it has {ANSWERS} only: run the same `medvlm-r1 eval` again to finish it"
            if (folder / ANSWERS).is_file()
            else ""
        )
        raise UserError(f"{folder}: neither {RESULTS} of an evaluation nor {METRICS} of a training is in it{hint}")
    return RunView(metrics=metrics)


def load_runs(folders: Iterable[Path | str]) -> dict[str, RunView]:
    """Read several run folders, named after the folder, with its parents' names where two would be called the same.

    Raises:
        UsageError: a folder is given twice, or none at all.
        UserError: as `load_run`.
    """
    paths = [Path(folder) for folder in folders]
    resolved = [path.resolve() for path in paths]
    if not paths:
        raise UsageError("no run folder given; wanted at least one")
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise UsageError(f"{paths[i]}: given twice; wanted different run folders")
    depth = 1
    names = ["/".join(path.parts[-depth:]) for path in resolved]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in resolved]
    return {name: load_run(path) for name, path in zip(names, paths, strict=True)}


def _data_folder(folder: Path, results: Mapping[str, Any]) -> Path | None:
    """The data folder as it was named, or where it lies from the run when both were moved together."""
    candidates = (Path(results["data"]), folder / results["data_from_run"])
    return next((path for path in candidates if path.is_dir()), None)
