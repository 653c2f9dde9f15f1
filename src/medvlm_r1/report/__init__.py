"""Reports: self-contained HTML pages of runs and audits, and model cards."""

from medvlm_r1.report.html import render_report
from medvlm_r1.report.views import RunView, load_run, load_runs

__all__ = ["RunView", "load_run", "load_runs", "render_report"]
