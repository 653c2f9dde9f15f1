"""HTML page of `audit data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medvlm_r1.audit.dataset.audit import DataAudit, ModalityAudit
from medvlm_r1.audit.dataset.blind import BASELINES, CHANCE
from medvlm_r1.audit.dataset.clean import CleanSet
from medvlm_r1.audit.dataset.verdict import MARGIN, THRESHOLDS, Figure, label
from medvlm_r1.data.option_prior import TIE
from medvlm_r1.report.album import Album
from medvlm_r1.report.charts import Share, ShareChart, letter_chart
from medvlm_r1.report.items import Item, Reply, make_item, spread_ids
from medvlm_r1.report.page import write_page
from medvlm_r1.report.table import Cell, Row, Table, interval, percent

_SHORT = {
    "majority": "majority letter",
    "longest": "longest option",
    "option_prior_fit": "option prior, fitted",
    "option_prior_loo": "option prior, LOO",
}
_GIVEAWAYS = 8


def render_data_audit(
    audit: DataAudit, out: Path | str, *, data: Path, clean: CleanSet | None = None, items: int = 6
) -> Path:
    """Write the page. It works offline and needs no other file.

    Args:
        audit: The audit.
        out: The HTML file; written atomically.
        data: The audited data folder, for the images of the questions shown.
        clean: The set without the solved questions, if it was written.
        items: Number of questions to show in full.

    Returns:
        The path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    modalities = _answerable(audit)
    fit = audit.prior_source.name if audit.prior_source else None
    album = Album(items)
    return write_page(
        out,
        "audit_data.html",
        title=f"What can be answered without the image: {data.resolve().name}",
        verdicts=[(name, modality.verdict) for name, modality in modalities.items()],
        counted=f"Questions with options: {audit.n}. Open questions: {audit.n_open}.",
        charts=[blind_chart(name, modality.figures) for name, modality in modalities.items()],
        figures=_figures(modalities, fit),
        types=_types(modalities, fit),
        clean=_figures(_answerable(clean.audit), fit) if clean and clean.audit else None,
        clean_set=clean,
        letters=[
            letter_chart(name, modality.letters, [len(item.options) for item in modality.items])
            for name, modality in modalities.items()
        ],
        order=[
            f"{name}, {test.options} options: {test.sentence}"
            for name, modality in modalities.items()
            for test in modality.order
        ],
        giveaways=[
            (name, [option for option in modality.giveaways[:_GIVEAWAYS] if option.surprise])
            for name, modality in modalities.items()
        ],
        items=_items(modalities, fit, data, items, album),
        album=album,
        audit=audit,
        label=lambda baseline: _capital(label(baseline, fit)),
        thresholds=THRESHOLDS,
        tie=TIE,
    )


def blind_chart(title: str, figures: Mapping[str, Figure]) -> ShareChart:
    """Lay out the baselines of one modality; the dashed line is chance.

    Args:
        title: Name of the modality.
        figures: By baseline, chance among them.
    """
    chance = figures[CHANCE].percent
    shares = []
    for name, figure in figures.items():
        if name != CHANCE:
            low = figure.ci95[0]
            tone = "high" if low >= chance + MARGIN else "raised" if low > chance else "plain"
            shares.append(Share(_SHORT[name], figure.percent, figure.ci95, tone))
    return ShareChart(title, f"{figures[CHANCE].n} questions, chance {percent(chance)} %", shares, chance)


def _answerable(audit: DataAudit) -> dict[str, ModalityAudit]:
    """Modalities that have questions with options."""
    return {name: modality for name, modality in audit.modalities.items() if modality.items}


def _baselines(modalities: Mapping[str, ModalityAudit]) -> list[str]:
    return [name for name in BASELINES if any(name in modality.figures for modality in modalities.values())]


def _figures(modalities: Mapping[str, ModalityAudit], fit: str | None) -> Table:
    rows = [
        Row(
            _capital(label(name, fit)),
            [_cell(modality.figures.get(name), name, len(modality.solved(name))) for modality in modalities.values()],
        )
        for name in _baselines(modalities)
    ]
    return Table("Baseline", [(name, f"n = {len(modality.items)}") for name, modality in modalities.items()], rows)


def _types(modalities: Mapping[str, ModalityAudit], fit: str | None) -> Table | None:
    names = _baselines(modalities)
    rows = [
        Row(kind, [_cell(figures.get(name), name) for name in names], f"{modality}, n = {figures[CHANCE].n}")
        for modality, modality_audit in modalities.items()
        for kind, figures in modality_audit.by_type.items()
    ]
    return Table("Type", [(_capital(label(name, fit)), "") for name in names], rows) if rows else None


def _cell(figure: Figure | None, name: str, solved: int | None = None) -> Cell:
    if figure is None:
        return Cell()
    small = [] if name == CHANCE else [interval(figure.ci95)]
    if solved is not None and name != CHANCE:
        small.append(f"{solved} solved")
    return Cell(percent(figure.percent), tuple(small))


def _items(
    modalities: Mapping[str, ModalityAudit], fit: str | None, data: Path, count: int, album: Album
) -> list[Item]:
    index = {item.id: (modality, row) for modality in modalities.values() for row, item in enumerate(modality.items)}
    items = []
    for name in spread_ids([item for modality in modalities.values() for item in modality.items], count):
        modality, row = index[name]
        credits = [(baseline, values[row]) for baseline, values in modality.credits.items() if baseline != CHANCE]
        replies = [_reply(label(baseline, fit), style, credit) for style, (baseline, credit) in enumerate(credits)]
        items.append(make_item(modality.items[row], data, replies, album))
    return items


def _capital(text: str) -> str:
    """Capitalize the first letter only; unlike `str.capitalize`, keep the others."""
    return text[:1].upper() + text[1:]


def _reply(name: str, style: int, credit: float) -> Reply:
    verdict = "Correct" if credit == 1 else "Tie" if credit else "Wrong"
    note = f"one of {round(1 / credit)} options that tie" if verdict == "Tie" else ""
    return Reply(run=_capital(name), style=style, verdict=verdict, note=note)
