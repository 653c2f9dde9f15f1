"""HTML report of any number of runs: accuracies, differences, question types, facts, curves and answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.compare import compare_answers, left_out
from medvlm_r1.evaluation.score import box_rows, order_modalities
from medvlm_r1.report.audit_model import audit_section
from medvlm_r1.report.charts import build_panels
from medvlm_r1.report.items import PICTURES_SHOWN, build_items, choose_items
from medvlm_r1.report.page import Album, Cell, Row, Table, interval, percent, short, signed, write_page
from medvlm_r1.report.views import RunView, load_audit

AUDIT_PAGE = "audit.html"
MEAN = "Mean"

Evaluated = Sequence[tuple[int, str, Mapping[str, Any]]]
"""(style number, name, results) of each run that has results."""


def render_report(
    runs: Mapping[str, RunView],
    out: Path | str,
    *,
    title: str,
    summary: str,
    notes: Sequence[str] = (),
    domains: Mapping[str, str] | None = None,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    items: int | Sequence[str] = 6,
) -> Path:
    """Write the report. It works offline and needs no other file.

    Model audits come first, each with its verdicts, measures and items.

    Args:
        runs: the runs by display name, in the order of the table rows; see `load_run`.
        out: the HTML file; written atomically.
        title: heading of the page.
        summary: text under the heading; blank lines separate paragraphs.
        notes: lines at the end of the page, such as the command that produced each number.
        domains: small print under a modality's name, such as {"MRI": "in domain"}.
        paper: published percentages by model and column (a modality or "Mean"), for a separate table.
        items: ids of the items to show in full, or a number N. N items of the evaluations are shown, selected without
            regard to the answers, and N items of each audit, selected by their findings.

    Returns:
        The path of the file.

    Raises:
        UserError: `items` contains an id that no run has answered, or the file cannot be written.
    """
    audits = {run: view.audit for run, view in runs.items() if view.audit is not None}
    evaluated = [(style, run, view.results) for style, (run, view) in enumerate(runs.items()) if view.results]
    images = {answer.sample.id: len(answer.sample.images) for view in runs.values() for answer in view.answers}
    if isinstance(items, int):
        count, ids = items, choose_items(runs, items)
    else:
        in_audits = {name for audit in audits.values() for name in audit.items} - images.keys()
        count, ids = len(items), [name for name in items if name not in in_audits]
    published = {name for cells in (paper or {}).values() for name in cells}
    types = {(name, kind) for *_, results in evaluated for name, kinds in results["by_type"].items() for kind in kinds}
    modalities = order_modalities(name for name, _ in types)
    boxes = {run: metrics for _, run, results in evaluated if (metrics := box_rows(results))}
    audited = sum(min(count, len(audit.items)) for audit in audits.values())
    album = Album(sum(images.get(name, 0) for name in ids) + PICTURES_SHOWN * audited)
    return write_page(
        out,
        "report.html",
        title=title,
        summary=[paragraph.strip() for paragraph in summary.split("\n\n") if paragraph.strip()],
        notes=notes,
        audits=[
            audit_section(audit, f"audit-{number}", album=album, name=run if len(runs) > 1 else "", items=items)
            for number, (run, audit) in enumerate(audits.items())
        ],
        strict=_accuracy_table(evaluated, "accuracy", domains or {}) if evaluated else None,
        lenient=_accuracy_table(evaluated, "lenient", domains or {}) if evaluated else None,
        differences=_differences(runs, evaluated),
        paper=paper or {},
        paper_columns=[*order_modalities(published - {MEAN}), *sorted(published & {MEAN})],
        types=sorted(types, key=lambda pair: (modalities.index(pair[0]), pair[1])),
        boxes=boxes,
        box_metrics=dict.fromkeys(name for metrics in boxes.values() for name in metrics),
        evaluated=evaluated,
        panels=build_panels({run: view.metrics for run, view in runs.items()}),
        difficulty=_difficulty_table(runs),
        items=build_items(runs, ids, album),
        album=album,
        picked=isinstance(items, int),
    )


def render_model_audit(folder: Path, *, items: int = 12) -> Path:
    """Write an audit's page into its run folder.

    Args:
        folder: Run folder of a finished audit.
        items: Number of items to show in full.

    Returns:
        The path of the file.

    Raises:
        UserError: The folder has no finished audit, or the file cannot be written.
    """
    view = load_audit(folder)
    return render_report(
        {folder.resolve().name: RunView(audit=view)},
        folder / AUDIT_PAGE,
        title=f"Audit of {short(view.record['model'])}",
        summary=f"Data: {short(view.record['data'])}. Every question was repeated in many variants.",
        items=items,
    )


def _accuracy_table(evaluated: Evaluated, key: str, domains: Mapping[str, str]) -> Table:
    """Accuracy by model and modality with the mean, and a last row for chance.

    Args:
        evaluated: The runs.
        key: "accuracy" (strict, with the well-formed share) or "lenient".
        domains: Small print under the name of a modality, such as "in domain".
    """
    modalities = order_modalities(name for *_, results in evaluated for name in results[key] if name != "mean")
    several_data = len({results["data_sha256"] for *_, results in evaluated}) > 1
    columns = [*((name, domains.get(name, "")) for name in modalities), (MEAN, "unweighted")]
    rows = []
    chances: dict[str, set[float]] = {name: set() for name in (*modalities, "mean")}
    for style, run, results in evaluated:
        shares = results[key]
        chance = {name: value if name == "mean" else value["percent"] for name, value in results["chance"].items()}
        for name in chances.keys() & chance.keys():
            chances[name] |= {chance[name]} - {None}
        cells = [_share_cell(shares.get(name), chance.get(name)) for name in modalities]
        mean, ends = shares["mean"], results[f"{key}_mean_ci95"]
        cells.append(
            Cell(percent(mean), (interval(ends),), (ends[0], mean, ends[1], chance["mean"])) if ends else Cell()
        )
        if key == "accuracy":
            cells.append(_share_cell(results["well_formed"], None))
        small = short(results["model"]) + (f", on {short(results['data'])}" if several_data else "")
        rows.append(Row(run, cells, "" if small == run else small, style))
    # Chance is shown if it is the same for all runs.
    cells = [Cell(percent(*values)) if len(values) == 1 else Cell() for values in chances.values()]
    if key == "accuracy":
        columns.append(("Well formed", "of all answers"))
        cells.append(Cell())
    return Table("Model", columns, [*rows, Row("Guessing at random", cells, "expected", stays=True)])


def _differences(runs: Mapping[str, RunView], evaluated: Evaluated) -> tuple[str, Table | None, list[str]] | None:
    """Compare every other evaluation with the first, item by item.

    Returns:
        The name of the first evaluation, the table (None if no other evaluation is comparable), and one note per other
        evaluation. A note lists settings that differ and excluded items, or the reason why there is no comparison.
        The result is None if no other evaluation shares an item with the first.
    """
    answered = [(style, run, runs[run].answers) for style, run, _ in evaluated if runs[run].answers]
    if not answered:
        return None
    _, first, base = answered[0]
    ids = {answer.sample.id for answer in base}
    compared: list[tuple[int, str, dict[str, Any]]] = []
    notes = []
    for style, run, answers in answered[1:]:
        if ids.isdisjoint(answer.sample.id for answer in answers):
            # Another data set has no shared items to compare.
            continue
        try:
            result = compare_answers(base, answers, names=(first, run))
        except UserError as error:
            notes.append(f"{run}: not compared. {error}.")
            continue
        compared.append((style, run, result))
        differ = "; ".join(result["settings_differ"])
        notes.append(f"{run}: {f'Settings differ: {differ}. ' if differ else ''}{left_out(result)}")
    modalities = order_modalities(name for *_, result in compared for name in result["modalities"])
    rows = []
    for style, run, result in compared:
        cells = [_difference_cell(result["modalities"].get(name)) for name in modalities]
        rows.append(Row(run, [*cells, _difference_cell(result["all"])], style=style))
    columns = [*((name, "") for name in modalities), ("All items", "pooled")]
    return (first, Table("Model", columns, rows) if rows else None, notes) if notes else None


def _difficulty_table(runs: Mapping[str, RunView]) -> Table | None:
    """Samples by pass rate, all and used, of the trainings that selected or ordered them; None if none did."""
    columns: list[tuple[str, str]] = []
    rows: dict[str, list[Cell]] = {}
    for run, view in runs.items():
        if (entry := view.pass_rates) is not None:
            total = sum(entry["all"].values())
            columns += [(f"{run}: all", f"pass rates of {entry['model']}"), (f"{run}: used", "in the training")]
            for name in entry["all"]:
                shares = [(entry[kind][name], 100 * entry[kind][name] / total) for kind in ("all", "used")]
                rows.setdefault(name, []).extend(Cell(str(n), bar=(0.0, share, share, None)) for n, share in shares)
    return Table("Pass rate", columns, [Row(*row) for row in rows.items()], sorts=False) if columns else None


def _share_cell(share: Mapping[str, Any] | None, chance: float | None) -> Cell:
    if share is None or not share["n"]:
        return Cell()
    low, high = share["ci95"]
    small = (interval(share["ci95"]), f"{share['correct']:g} of {share['n']}")
    return Cell(percent(share["percent"]), small, (low, share["percent"], high, chance))


def _difference_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell()
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    ends = f"{signed(row['ci95'][0])} to {signed(row['ci95'][1])}"
    return Cell(signed(row["difference"]), (ends, f"gained {row['c']}, lost {row['b']} of {row['n']}", p))
