"""Section of a model audit in a report: verdicts, figures and items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import FIGURES, counted
from medvlm_r1.audit.store import StoredItem
from medvlm_r1.errors import UserError
from medvlm_r1.report.album import Album
from medvlm_r1.report.audit.model_charts import CHARTS, CURVES
from medvlm_r1.report.audit.model_items import AuditItem, build_audit_items
from medvlm_r1.report.audit.model_view import AuditView, Pictures
from medvlm_r1.report.charts import Chart, ShareChart
from medvlm_r1.report.table import NOTHING, Cell, Row, Table, interval, number, percent, short, signed, text_table

_FURTHER = {"subgroups": "For whom is it worse?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One audit question with its verdict and figures.

    Attributes:
        anchor: HTML id of its section, unique in a report.
        question: The question.
        probe: The result of its probe.
        curves: Line charts.
        charts: Charts of shares.
        figures: All measures; None if there are none.
    """

    anchor: str
    question: str
    probe: ProbeResult
    curves: list[Chart]
    charts: list[ShareChart]
    figures: Table | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPart:
    """Content of one audit in a report.

    Attributes:
        anchor: Prefix of the HTML ids.
        name: The run's name if the report shows several, otherwise "".
        model: Name of the model.
        counted: Counts of questions, variants and failed answers, in words.
        findings: The audit questions.
        items: The items shown.
        picked: Whether the items were selected by what they show.
        pictures: Why images are not shown, or "".
        replies: Reply counts by variant.
        record: Figures of the audit, without its probes.
        missing: Probes that were not requested.
    """

    anchor: str
    name: str
    model: str
    counted: str
    findings: list[Finding]
    items: list[AuditItem]
    picked: bool
    pictures: str
    replies: Table
    record: Mapping[str, Any]
    missing: list[str]


def audit_part(
    view: AuditView, anchor: str, *, album: Album, name: str = "", items: int | Sequence[str] = 12
) -> AuditPart:
    """Build the section.

    Args:
        view: The audit.
        anchor: Prefix of its HTML ids.
        album: Encodes the images.
        name: Name of the run, if there are several.
        items: Number of items to show, or their ids.

    Raises:
        UserError: The details of a probe cannot be drawn.
    """
    pictures = Pictures(view)
    questions = [(verdict, *question) for verdict, question in QUESTIONS.items()]
    main_probes = {probe for probe, _ in QUESTIONS.values()}
    questions += [(probe, probe, _FURTHER.get(probe, probe)) for probe in view.probes if probe not in main_probes]
    return AuditPart(
        anchor=anchor,
        name=name,
        model=short(view.record["model"]),
        counted=counted(view.record),
        findings=[
            _finding(f"{anchor}-{verdict}", question, view.probes.get(probe)) for verdict, probe, question in questions
        ],
        items=build_audit_items(view, pictures, items, album),
        picked=isinstance(items, int),
        pictures=pictures.note,
        replies=_replies(view.items),
        record=view.record,
        missing=[probe for probe in PROBES if probe not in view.probes],
    )


def _finding(anchor: str, question: str, probe: ProbeResult | None) -> Finding:
    if probe is None:
        probe = ProbeResult(name="", verdict="not run", sentence="The probe was not requested.")
    try:
        curves = [chart for curve in CURVES.get(probe.name, ()) if (chart := curve(probe)) is not None]
        charts = CHARTS[probe.name](probe) if probe.name in CHARTS else []
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{FIGURES}: the details of the probe {probe.name!r} cannot be drawn ({error!r}); run the same"
            " `medvlm-r1 audit model` again to rewrite them"
        ) from error
    figures = _figures(probe.measures)
    return Finding(anchor=anchor, question=question, probe=probe, curves=curves, charts=charts, figures=figures)


def _figures(measures: Mapping[str, Measure]) -> Table | None:
    rows = [
        Row(
            measure.about or name,
            [Cell(_value(measure)), Cell(_ends(measure)), Cell(str(measure.n))],
            name if measure.about else "",
        )
        for name, measure in measures.items()
    ]
    return Table("Measure", [("Value", ""), ("Interval", "95 %"), ("n", "")], rows) if rows else None


def _value(measure: Measure) -> str:
    if measure.unit == "share":
        return f"{percent(100 * measure.value)}\u00a0%" if measure.n else NOTHING
    return f"{signed(100 * measure.value)} points" if measure.unit == "difference" else number(measure.value)


def _ends(measure: Measure) -> str:
    if measure.ci95 is None or not measure.n:
        return NOTHING
    low, high = measure.ci95
    if measure.unit == "share":
        return interval((100 * low, 100 * high))
    if measure.unit == "difference":
        return f"{signed(100 * low)} to {signed(100 * high)}"
    return f"{number(low)} to {number(high)}"


def _replies(items: Mapping[str, StoredItem]) -> Table:
    """Reply counts by variant; "shift-1", "shift-2", ... are combined."""
    counts: dict[str, list[int]] = {}
    for item in items.values():
        for name, answer in item.answers.items():
            row = counts.setdefault(name.rstrip("0123456789").rstrip("-"), [0, 0, 0, 0])
            for column, value in enumerate((True, answer.letter is None, answer.truncated, answer.empty)):
                row[column] += value
    rows = [(name, *map(str, row)) for name, row in counts.items()]
    return text_table(("Variant", "Answers", "Unparsed", "Truncated", "Empty"), rows)
