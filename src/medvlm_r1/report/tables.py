"""Evaluation tables: accuracies, differences, question types, facts, and published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.compare import compare_answers, left_out
from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.report.table import NOTHING, Bar, Cell, Row, Table, interval, percent, short, signed
from medvlm_r1.report.views import RunView

MEAN = "Mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCell:
    """A published figure; printed only if confirmed."""

    percent: float
    confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """A published row; `cells` by column name (a modality or "Mean")."""

    name: str
    cells: Mapping[str, PaperCell]


def accuracy_table(runs: Mapping[str, RunView], key: str, domains: Mapping[str, str]) -> Table:
    """Accuracy by model and modality with the mean, and a last row for chance.

    Args:
        runs: the runs of the report; those without results have no row.
        key: "accuracy" (strict, with the well-formed share) or "lenient".
        domains: small print under the name of a modality, such as "in domain".
    """
    evaluated = _evaluated(runs)
    modalities = order_modalities(name for _, _, results in evaluated for name in _parts(results[key]))
    means = [results["chance"]["mean"] for _, _, results in evaluated]
    several_data = len({results["data_sha256"] for _, _, results in evaluated}) > 1
    rows = []
    for style, run, results in evaluated:
        parts, chances = _parts(results[key]), results["chance"]
        cells = [_share_cell(parts.get(name), chances.get(name, {}).get("percent")) for name in modalities]
        cells.append(_mean_cell(results[key]["mean"], results[f"{key}_mean_ci95"], chances["mean"]))
        if key == "accuracy":
            cells.append(_share_cell(results["well_formed"], None))
        small = short(results["model"]) + (f", on {short(results['data'])}" if several_data else "")
        rows.append(Row(name=run, cells=tuple(cells), small="" if small == run else small, style=style))
    guess = [_guess_cell([results["chance"].get(name) for _, _, results in evaluated]) for name in modalities]
    guess.append(_guess_cell([{"percent": mean} for mean in means if mean is not None]))
    columns = [*((name, domains.get(name, "")) for name in modalities), (MEAN, "unweighted")]
    if key == "accuracy":
        columns.append(("Well formed", "of all answers"))
        guess.append(Cell())
    rows.append(Row(name="Guessing at random", cells=tuple(guess), small="expected", stays=True))
    return Table(corner="Model", columns=tuple(columns), rows=tuple(rows))


def difference_table(runs: Mapping[str, RunView]) -> tuple[str, Table | None, list[str]] | None:
    """Compare every other evaluation with the first, item by item.

    Returns:
        The name of the first evaluation, the table (None if no other is comparable), and one note per other
        evaluation: settings that differ and what is left out, or why it is not comparable. None without another one.
    """
    evaluated = [(style, run, runs[run].answers) for style, run, _ in _evaluated(runs) if runs[run].answers]
    if len(evaluated) < 2:
        return None
    first, base = evaluated[0][1:]
    compared: list[tuple[int, str, dict[str, Any]]] = []
    notes = []
    ids = {answer.sample.id for answer in base}
    for style, run, answers in evaluated[1:]:
        if ids.isdisjoint(answer.sample.id for answer in answers):
            # Another data set has no shared items to compare.
            continue
        try:
            result = compare_answers(base, answers, names=(first, run))
        except UserError as error:
            notes.append(f"{run}: not compared. {error}.")
            continue
        compared.append((style, run, result))
        alike = [f"Settings differ: {'; '.join(differ)}."] if (differ := result["settings_differ"]) else []
        notes.append(" ".join([f"{run}:", *alike, left_out(result)]))
    if not notes:
        return None
    if not compared:
        return first, None, notes
    modalities = order_modalities(name for _, _, result in compared for name in result["modalities"])
    rows = []
    for style, run, result in compared:
        cells = [_difference_cell(result["modalities"].get(name)) for name in modalities]
        rows.append(Row(name=run, cells=(*cells, _difference_cell(result["all"])), style=style))
    columns = (*((name, "") for name in modalities), ("All items", "pooled"))
    return first, Table(corner="Model", columns=columns, rows=tuple(rows)), notes


def type_table(runs: Mapping[str, RunView]) -> Table | None:
    """Question types within modalities by models; None when no data names question types."""
    columns = [(run, style, results["by_type"]) for style, run, results in _evaluated(runs)]
    kinds = {(modality, kind) for _, _, by_type in columns for modality, types in by_type.items() for kind in types}
    rows = []
    for modality in order_modalities(name for name, _ in kinds):
        for kind in sorted(kind for name, kind in kinds if name == modality):
            parts = [by_type.get(modality, {}).get(kind) for _, _, by_type in columns]
            counts = sorted({part["n"] for part in parts if part})
            cells = tuple(
                Cell(value=percent(part["percent"]), small=(interval(part["ci95"]),)) if part else Cell()
                for part in parts
            )
            rows.append(Row(name=kind, cells=cells, small=f"{modality}, n = {', '.join(map(str, counts))}"))
    headings = tuple((run, "") for run, _, _ in columns)
    return Table(corner="Type", columns=headings, rows=tuple(rows)) if rows else None


def facts_table(runs: Mapping[str, RunView]) -> Table:
    """Facts by model: data, template, counts, lengths and time."""

    def counted(part: Mapping[str, Any]) -> str:
        return f"{percent(part['percent'])} % ({part['count']})" if part["n"] else NOTHING

    def words(value: float | None) -> str:
        return NOTHING if value is None else f"{value:.0f}"

    every = [results for _, _, results in _evaluated(runs)]
    facts = {
        "Model": [short(r["model"]) for r in every],
        "Data": [short(r["data"]) for r in every],
        "Prompt template": [str(r["template"]) for r in every],
        "Items answered": [str(r["n"]) for r in every],
        "Open questions (not in the accuracy)": [str(r["open"]["n"]) for r in every],
        "Open questions matching the reference": [str(r["open"]["correct"]) for r in every],
        "Left out for missing images": [str(r["n_missing"]) for r in every],
        "No answer found, strict rule": [counted(r["no_answer"]) for r in every],
        "No answer found, lenient rule": [counted(r["no_answer_lenient"]) for r in every],
        "Truncated at the token limit": [counted(r["cut_off"]) for r in every],
        "Reasoning length in words, mean": [words(r["mean_reasoning_words"]) for r in every],
        "Completion length in tokens, mean": [words(r["mean_completion_tokens"]) for r in every],
        "Time to answer all": [_duration(r["seconds"]) for r in every],
    }
    rows = tuple(Row(name=name, cells=tuple(Cell(value=value) for value in values)) for name, values in facts.items())
    return Table(corner="", columns=tuple((run, "") for _, run, _ in _evaluated(runs)), rows=rows, sorts=False)


def paper_table(rows: Sequence[PaperRow]) -> Table | None:
    """Published figures; unconfirmed ones are left blank. None if nothing is confirmed."""
    names = [name for row in rows for name, cell in row.cells.items() if cell.confirmed]
    columns = [*order_modalities(name for name in names if name != MEAN), *([MEAN] if MEAN in names else [])]
    laid_out = []
    for row in rows:
        cells = [row.cells.get(name) for name in columns]
        shown = tuple(Cell(value=f"{cell.percent:.2f}") if cell and cell.confirmed else Cell() for cell in cells)
        laid_out.append(Row(name=row.name, cells=shown))
    headings = tuple((name, "") for name in columns)
    return Table(corner="Model", columns=headings, rows=tuple(laid_out)) if columns else None


def _evaluated(runs: Mapping[str, RunView]) -> list[tuple[int, str, Mapping[str, Any]]]:
    """(style, name, results) of the runs that have results."""
    return [(style, run, view.results) for style, (run, view) in enumerate(runs.items()) if view.results is not None]


def _parts(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in figures.items() if name != "mean"}


def _guess_cell(chances: Sequence[Mapping[str, Any] | None]) -> Cell:
    """Chance, if it is the same for all runs."""
    seen = {chance["percent"] for chance in chances if chance}
    return Cell(value=percent(seen.pop())) if len(seen) == 1 else Cell()


def _mean_cell(mean: float | None, ends: Sequence[float], chance: float) -> Cell:
    """Cell of the mean; empty without questions that have options."""
    if mean is None:
        return Cell()
    bar = Bar(low=ends[0], value=mean, high=ends[1], chance=chance)
    return Cell(value=percent(mean), small=(interval(ends),), bar=bar)


def _share_cell(part: Mapping[str, Any] | None, chance: float | None) -> Cell:
    if part is None or not part["n"]:
        return Cell()
    low, high = part["ci95"]
    return Cell(
        value=percent(part["percent"]),
        small=(interval(part["ci95"]), f"{part['correct']} of {part['n']}"),
        bar=Bar(low=low, value=part["percent"], high=high, chance=chance),
    )


def _difference_cell(part: Mapping[str, Any] | None) -> Cell:
    if part is None:
        return Cell()
    p = "p < 0.001" if part["p"] < 0.001 else f"p = {part['p']:.3f}"
    ends = f"{signed(part['ci95'][0])} to {signed(part['ci95'][1])}"
    return Cell(
        value=signed(part["difference"]), small=(ends, f"gained {part['c']}, lost {part['b']} of {part['n']}", p)
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
