"""The audit of a data set as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlm_r1.audit.dataset.audit import DataAudit, ModalityAudit
from medvlm_r1.audit.dataset.blind import BASELINES, CHANCE, MAJORITY, PRIOR_FIT
from medvlm_r1.audit.dataset.clean import CleanSet
from medvlm_r1.audit.dataset.giveaway import GiveawayOption
from medvlm_r1.audit.dataset.verdict import THRESHOLDS, Figure, label
from medvlm_r1.data.option_prior import TIE
from medvlm_r1.report.album import Album
from medvlm_r1.report.audit.charts import blind_chart, letter_chart
from medvlm_r1.report.items import Item, Reply, make_item, spread_ids
from medvlm_r1.report.page import write_page
from medvlm_r1.report.table import Cell, Row, Table, interval, percent

_SHORT = {
    "majority": "majority letter",
    "longest": "longest option",
    "option_prior_fit": "option prior, fitted",
    "option_prior_loo": "option prior, left out",
}
_TELLING = 8


def render_data_audit(
    audit: DataAudit, out: Path | str, *, data: Path, clean: CleanSet | None = None, items: int = 6
) -> Path:
    """Write the page. It needs no network and no other file, and prints as it reads.

    Args:
        audit: The audit.
        out: The HTML file; written at once or not at all.
        data: The audited data folder; images of the questions shown are taken from it.
        clean: The set that was written without the solved questions, if one was.
        items: How many questions to show in full.

    Returns:
        The path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    parts = {name: part for name, part in audit.modalities.items() if part.items}
    fit = audit.prior_source.name if audit.prior_source else None
    folder = data.resolve().name
    album = Album(items)
    return write_page(
        out,
        "audit_data.html",
        title=f"What the questions give away: {folder}",
        verdicts=[(name, part.verdict) for name, part in parts.items()],
        counted=f"Questions with options: {audit.n}. Open questions: {audit.n_open}.",
        charts=[blind_chart(name, part.figures, _SHORT) for name, part in parts.items()],
        figures=_figures(parts, fit),
        types=_types(parts, fit),
        clean=_clean(clean, fit),
        clean_note=_clean_note(clean, fit),
        letters=[
            letter_chart(name, part.letters, [len(i.options) for i in part.items]) for name, part in parts.items()
        ],
        order=[
            f"{name}, {test.options} options: {test.sentence}" for name, part in parts.items() for test in part.order
        ],
        telling=[(name, _telling(part.giveaways)) for name, part in parts.items()],
        items=_items(parts, fit, data, items, album),
        album=album,
        notes=_notes(audit),
    )


def _figures(parts: dict[str, ModalityAudit], fit: str | None) -> Table:
    names = [name for name in BASELINES if any(name in part.figures for part in parts.values())]
    rows = []
    for name in names:
        cells = [_cell(part.figures.get(name), name, len(part.solved(name))) for part in parts.values()]
        rows.append(Row(name=_capital(label(name, fit)), cells=tuple(cells)))
    columns = tuple((name, f"n = {len(part.items)}") for name, part in parts.items())
    return Table(corner="Baseline", columns=columns, rows=tuple(rows))


def _types(parts: dict[str, ModalityAudit], fit: str | None) -> Table | None:
    names = [name for name in BASELINES if any(name in part.figures for part in parts.values())]
    rows = [
        Row(
            name=kind,
            small=f"{modality}, n = {figures[CHANCE].n}",
            cells=tuple(_cell(figures.get(name), name) for name in names),
        )
        for modality, part in parts.items()
        for kind, figures in part.by_type.items()
    ]
    columns = tuple((_capital(label(name, fit)), "") for name in names)
    return Table(corner="Type", columns=columns, rows=tuple(rows)) if rows else None


def _clean(clean: CleanSet | None, fit: str | None) -> Table | None:
    if clean is None or clean.audit is None:
        return None
    return _figures({name: part for name, part in clean.audit.modalities.items() if part.items}, fit)


def _clean_note(clean: CleanSet | None, fit: str | None) -> str:
    if clean is None:
        return ""
    without = "; ".join(label(name, fit) for name in clean.baselines)
    kept, removed = sum(clean.kept.values()), sum(clean.removed.values())
    return (
        f"{kept} of {kept + removed} questions are left without those that any of these solves: {without}. A rule no "
        "better than guessing solves some questions too, by luck, so on what is left it does worse than chance: "
        "compare an accuracy on it with other accuracies on it, not with chance."
    )


def _cell(found: Figure | None, name: str, solved: int | None = None) -> Cell:
    if found is None:
        return Cell()
    small = [] if name == CHANCE else [interval(found.ci95)]
    if solved is not None and name != CHANCE:
        small.append(f"{solved} solved")
    return Cell(value=percent(found.percent), small=tuple(small))


def _telling(options: Sequence[GiveawayOption]) -> list[dict[str, str]]:
    return [{"text": option.text, "record": option.record} for option in options[:_TELLING] if option.surprise]


def _items(parts: dict[str, ModalityAudit], fit: str | None, data: Path, count: int, album: Album) -> list[Item]:
    where = {item.id: (part, place) for part in parts.values() for place, item in enumerate(part.items)}
    shown = []
    for name in spread_ids([item for part in parts.values() for item in part.items], count):
        part, place = where[name]
        credits = {baseline: values[place] for baseline, values in part.credits.items() if baseline != CHANCE}
        replies = [
            _reply(label(baseline, fit), style, credit) for style, (baseline, credit) in enumerate(credits.items())
        ]
        shown.append(make_item(part.items[place], data, replies, album))
    return shown


def _capital(text: str) -> str:
    """With a capital first letter; the others stay as they are, unlike with `str.capitalize`."""
    return text[:1].upper() + text[1:]


def _reply(name: str, style: int, credit: float) -> Reply:
    verdict = "Correct" if credit == 1 else "Tie" if credit else "Wrong"
    note = f"one of {round(1 / credit)} options that tie" if verdict == "Tie" else ""
    return Reply(run=_capital(name), style=style, verdict=verdict, note=note, reasoning=None, answer=None, raw=None)


def _notes(audit: DataAudit) -> list[str]:
    notes = [
        *audit.notes,
        f"{_capital(label(MAJORITY))}: the letter right most often on these very questions, so on few of them "
        "somewhat too high. It counts for the verdict only where the position of the correct option is uneven beyond "
        "chance.",
        "Option prior: how often an option text was right when it was offered; texts that differ in case, spaces or "
        "punctuation alone are one. Leave one out: counted on the other questions of the modality; clearly below "
        "chance, options whose rates "
        f"differ by at most {TIE:g} standard errors tie, as on a balanced set each question lacks its own answer.",
    ]
    if source := audit.prior_source:
        notes.append(f"{_capital(label(PRIOR_FIT, source.name))}: counted on {len(source.items)} questions.")
    notes.append("The intervals count several questions on one subject as the independent ones they are worth.")
    notes += [f"Verdict “{level}”: {rule}." for level, rule in THRESHOLDS.items()]
    return [
        *notes,
        "`medvlm-r1 audit data DIR` makes this page; with `--json` it prints the figures and the solved items.",
    ]
