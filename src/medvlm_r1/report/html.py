"""HTML report of any number of runs: figures, curves and answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medvlm_r1.report import tables
from medvlm_r1.report.album import Album
from medvlm_r1.report.audit.model import audit_part
from medvlm_r1.report.audit.model_items import PICTURES_SHOWN
from medvlm_r1.report.audit.model_view import load_audit
from medvlm_r1.report.items import build_items, choose_items
from medvlm_r1.report.page import write_page
from medvlm_r1.report.table import short
from medvlm_r1.report.training_charts import build_panels
from medvlm_r1.report.views import RunView

AUDIT_PAGE = "audit.html"


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

    Audits of models come first: verdicts, then figures, then items.

    Args:
        runs: by display name, in row order; see `load_run`.
        out: the HTML file; written atomically.
        title: heading of the page.
        summary: text under the heading; blank lines separate paragraphs.
        notes: lines at the end, such as the command of each figure.
        domains: small print under a modality's name, such as {"MRI": "in domain"}.
        paper: published percentages by model and column (a modality or "Mean"), for a separate table.
        items: number of test items to show in full (selected without regard to the answers), or their ids; and of
            each audit, selected by what they show.

    Returns:
        The path of the file.

    Raises:
        UserError: no run has answered an id in `items`.
    """
    audited = {run: view.audit for run, view in runs.items() if view.audit is not None}
    if isinstance(items, int):
        ids = choose_items(runs, items)
    else:
        answered = {answer.sample.id for view in runs.values() for answer in view.answers}
        in_audits = {name for audit in audited.values() for name in audit.items} - answered
        ids = [name for name in items if name not in in_audits]
    album = Album(_pictures(runs, ids, items))
    evaluated = any(view.results is not None for view in runs.values())
    return write_page(
        out,
        "report.html",
        title=title,
        summary=[paragraph.strip() for paragraph in summary.split("\n\n") if paragraph.strip()],
        notes=notes,
        audits=[
            audit_part(audit, f"audit-{number}", album=album, name=run if len(runs) > 1 else "", items=items)
            for number, (run, audit) in enumerate(audited.items())
        ],
        strict=tables.accuracy_table(runs, "accuracy", domains or {}) if evaluated else None,
        lenient=tables.accuracy_table(runs, "lenient", domains or {}) if evaluated else None,
        differences=tables.difference_table(runs),
        paper=tables.paper_table(paper or {}),
        types=tables.type_table(runs),
        facts=tables.facts_table(runs) if evaluated else None,
        panels=build_panels({run: view.metrics for run, view in runs.items()}),
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


def _pictures(runs: Mapping[str, RunView], ids: Sequence[str], items: int | Sequence[str]) -> int:
    """Return the maximum number of images, with one image per audited item."""
    images = {answer.sample.id: len(answer.sample.images) for view in runs.values() for answer in view.answers}
    wanted = items if isinstance(items, int) else len(items)
    audited = sum(min(wanted, len(view.audit.items)) for view in runs.values() if view.audit is not None)
    return sum(images.get(name, 0) for name in ids) + PICTURES_SHOWN * audited
