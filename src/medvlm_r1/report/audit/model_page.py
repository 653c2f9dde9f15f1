"""HTML page of `audit model`, in its run folder."""

from __future__ import annotations

from pathlib import Path

from medvlm_r1.report.audit.model_view import load_audit
from medvlm_r1.report.html import render_report
from medvlm_r1.report.table import short
from medvlm_r1.report.views import RunView

PAGE = "audit.html"


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
        folder / PAGE,
        title=f"Audit of {short(view.record['model'])}",
        summary=f"Data: {short(view.record['data'])}. Every question was repeated in many variants.",
        items=items,
    )
