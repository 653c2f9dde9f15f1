"""Evaluation tables: accuracies, differences, question types, facts, and published figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.compare import compare_answers, left_out
from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.report.table import NOTHING, Bar, Cell, Row, Table, interval, percent, short, signed, text_table
from medvlm_r1.report.views import RunView

MEAN = "Mean"


def accuracy_table(runs: Mapping[str, RunView], key: str, domains: Mapping[str, str]) -> Table:
    """Accuracy by model and modality with the mean, and a last row for chance.

    Args:
        runs: the runs of the report; those without results have no row.
        key: "accuracy" (strict, with the well-formed share) or "lenient".
        domains: small print under the name of a modality, such as "in domain".
    """
    evaluated = _evaluated(runs)
    modalities = order_modalities(name for _, _, results in evaluated for name in _without_mean(results[key]))
    several_data = len({results["data_sha256"] for _, _, results in evaluated}) > 1
    rows = []
    for style, run, results in evaluated:
        shares, chance = results[key], results["chance"]
        cells = [_share_cell(shares.get(name), chance.get(name, {}).get("percent")) for name in modalities]
        cells.append(_mean_cell(shares["mean"], results[f"{key}_mean_ci95"], chance["mean"]))
        if key == "accuracy":
            cells.append(_share_cell(results["well_formed"], None))
        small = short(results["model"]) + (f", on {short(results['data'])}" if several_data else "")
        rows.append(Row(run, cells, "" if small == run else small, style))
    every_chance = [results["chance"] for _, _, results in evaluated]
    guesses = [
        _guess_cell([chance[name]["percent"] for chance in every_chance if name in chance]) for name in modalities
    ]
    guesses.append(_guess_cell([chance["mean"] for chance in every_chance if chance["mean"] is not None]))
    columns = [*((name, domains.get(name, "")) for name in modalities), (MEAN, "unweighted")]
    if key == "accuracy":
        columns.append(("Well formed", "of all answers"))
        guesses.append(Cell())
    rows.append(Row("Guessing at random", guesses, "expected", stays=True))
    return Table("Model", columns, rows)


def difference_table(runs: Mapping[str, RunView]) -> tuple[str, Table | None, list[str]] | None:
    """Compare every other evaluation with the first, item by item.

    Returns:
        The name of the first evaluation, the table (None if no other is comparable), and one note per other
        evaluation: settings that differ and what is left out, or why it is not comparable. None without another one.
    """
    evaluated = [(style, run, runs[run].answers) for style, run, _ in _evaluated(runs) if runs[run].answers]
    if len(evaluated) < 2:
        return None
    _, first, base = evaluated[0]
    ids = {answer.sample.id for answer in base}
    compared: list[tuple[int, str, dict[str, Any]]] = []
    notes = []
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
        differ = result["settings_differ"]
        settings = f"Settings differ: {'; '.join(differ)}. " if differ else ""
        notes.append(f"{run}: {settings}{left_out(result)}")
    if not notes:
        return None
    if not compared:
        return first, None, notes
    modalities = order_modalities(name for _, _, result in compared for name in result["modalities"])
    rows = []
    for style, run, result in compared:
        cells = [_difference_cell(result["modalities"].get(name)) for name in modalities]
        rows.append(Row(run, [*cells, _difference_cell(result["all"])], style=style))
    columns = [*((name, "") for name in modalities), ("All items", "pooled")]
    return first, Table("Model", columns, rows), notes


def type_table(runs: Mapping[str, RunView]) -> Table | None:
    """Question types within modalities by models; None when no data names question types."""
    columns = [(run, results["by_type"]) for _, run, results in _evaluated(runs)]
    kinds = {(modality, kind) for _, by_type in columns for modality, types in by_type.items() for kind in types}
    rows = []
    for modality in order_modalities(name for name, _ in kinds):
        for kind in sorted(kind for name, kind in kinds if name == modality):
            shares = [by_type.get(modality, {}).get(kind) for _, by_type in columns]
            counts = sorted({share["n"] for share in shares if share})
            cells = [
                Cell(percent(share["percent"]), (interval(share["ci95"]),)) if share else Cell() for share in shares
            ]
            rows.append(Row(kind, cells, f"{modality}, n = {', '.join(map(str, counts))}"))
    return Table("Type", [(run, "") for run, _ in columns], rows) if rows else None


def facts_table(runs: Mapping[str, RunView]) -> Table:
    """Facts by model: data, template, counts, lengths and time."""

    def counted(share: Mapping[str, Any]) -> str:
        return f"{percent(share['percent'])} % ({share['count']})" if share["n"] else NOTHING

    def mean(value: float | None) -> str:
        return NOTHING if value is None else f"{value:.0f}"

    facts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Model": lambda r: short(r["model"]),
        "Data": lambda r: short(r["data"]),
        "Prompt template": lambda r: str(r["template"]),
        "Items answered": lambda r: str(r["n"]),
        "Open questions (not in the accuracy)": lambda r: str(r["open"]["n"]),
        "Open questions matching the reference": lambda r: str(r["open"]["correct"]),
        "Left out for missing images": lambda r: str(r["n_missing"]),
        "No answer found, strict rule": lambda r: counted(r["no_answer"]),
        "No answer found, lenient rule": lambda r: counted(r["no_answer_lenient"]),
        "Truncated at the token limit": lambda r: counted(r["cut_off"]),
        "Reasoning length in words, mean": lambda r: mean(r["mean_reasoning_words"]),
        "Completion length in tokens, mean": lambda r: mean(r["mean_completion_tokens"]),
        "Time to answer all": lambda r: _duration(r["seconds"]),
    }
    evaluated = _evaluated(runs)
    rows = [(name, *(fact(results) for _, _, results in evaluated)) for name, fact in facts.items()]
    return text_table(("", *(run for _, run, _ in evaluated)), rows, sorts=False)


def paper_table(rows: Mapping[str, Mapping[str, float]]) -> Table | None:
    """Published percentages by model and column (a modality or "Mean"); None if there are none."""
    names = {name for cells in rows.values() for name in cells}
    columns = [*order_modalities(names - {MEAN}), *sorted(names & {MEAN})]
    texts = [
        (model, *(f"{cells[name]:.2f}" if name in cells else NOTHING for name in columns))
        for model, cells in rows.items()
    ]
    return text_table(("Model", *columns), texts) if columns else None


def _evaluated(runs: Mapping[str, RunView]) -> list[tuple[int, str, Mapping[str, Any]]]:
    """(style, name, results) of the runs that have results."""
    return [(style, run, view.results) for style, (run, view) in enumerate(runs.items()) if view.results is not None]


def _without_mean(shares: Mapping[str, Any]) -> dict[str, Any]:
    return {name: share for name, share in shares.items() if name != "mean"}


def _guess_cell(chances: Sequence[float]) -> Cell:
    """Chance, if it is the same for all runs."""
    return Cell(percent(chances[0])) if len(set(chances)) == 1 else Cell()


def _mean_cell(mean: float | None, ends: Sequence[float], chance: float) -> Cell:
    """Cell of the mean; empty without questions that have options."""
    return Cell() if mean is None else Cell(percent(mean), (interval(ends),), Bar(ends[0], mean, ends[1], chance))


def _share_cell(share: Mapping[str, Any] | None, chance: float | None) -> Cell:
    if share is None or not share["n"]:
        return Cell()
    low, high = share["ci95"]
    small = (interval(share["ci95"]), f"{share['correct']} of {share['n']}")
    return Cell(percent(share["percent"]), small, Bar(low, share["percent"], high, chance))


def _difference_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell()
    p = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    ends = f"{signed(row['ci95'][0])} to {signed(row['ci95'][1])}"
    return Cell(signed(row["difference"]), (ends, f"gained {row['c']}, lost {row['b']} of {row['n']}", p))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
