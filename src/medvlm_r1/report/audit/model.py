"""Section of a model audit in a report: verdicts, figures and items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.probe import Measure, ProbeResult
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import FIGURES, counted
from medvlm_r1.audit.store import StoredItem
from medvlm_r1.errors import UserError
from medvlm_r1.report.album import Album
from medvlm_r1.report.audit.charts import BlindChart
from medvlm_r1.report.audit.model_charts import CHARTS
from medvlm_r1.report.audit.model_curves import early_curve, reliability_curve, risk_curve
from medvlm_r1.report.audit.model_items import AuditItem, build_audit_items
from medvlm_r1.report.audit.model_view import AuditView, Pictures
from medvlm_r1.report.charts import Chart, number
from medvlm_r1.report.table import Cell, Row, Table, interval, percent, short, signed

NOT_ASKED = "The probe was not requested."
_CURVES = {"reasoning": (early_curve,), "confidence": (reliability_curve, risk_curve)}
_FURTHER = {"subgroups": "For whom is it worse?"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One audit question with its verdict and figures.

    Attributes:
        anchor: HTML id of its section, unique in a report.
        verdict: "pass", "warn", "fail" or "not run".
        figures: All measures; None if there are none.
        judged_by: (measure, rule) pairs.
    """

    anchor: str
    question: str
    verdict: str
    sentence: str
    curves: tuple[Chart, ...]
    charts: tuple[BlindChart, ...]
    figures: Table | None
    judged_by: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPart:
    """Content of one audit in a report.

    Attributes:
        name: The run's name if the report shows several, otherwise "".
        pictures: Why images are not shown, or "".
        came_back: Reply counts by variant.
    """

    anchor: str
    name: str
    model: str
    counted: str
    findings: tuple[Finding, ...]
    items: tuple[AuditItem, ...]
    picked: bool
    pictures: str
    came_back: Table
    facts: tuple[str, ...]


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
    asked = [(verdict, *question) for verdict, question in QUESTIONS.items()]
    asked += [(probe, probe, _FURTHER.get(probe, probe)) for probe in view.probes if probe not in _probes_asked()]
    return AuditPart(
        anchor=anchor,
        name=name,
        model=short(view.record["model"]),
        counted=counted(view.record),
        findings=tuple(
            _finding(f"{anchor}-{verdict}", question, view.probes.get(probe)) for verdict, probe, question in asked
        ),
        items=tuple(build_audit_items(view, pictures, items, album)),
        picked=isinstance(items, int),
        pictures=pictures.note,
        came_back=_came_back(view.items),
        facts=_facts(view),
    )


def _probes_asked() -> set[str]:
    return {probe for probe, _ in QUESTIONS.values()}


def _finding(anchor: str, question: str, probe: ProbeResult | None) -> Finding:
    if probe is None:
        probe = ProbeResult(name="", verdict="not run", sentence=NOT_ASKED)
    try:
        curves = [curve(probe) for curve in _CURVES.get(probe.name, ())]
        charts = CHARTS[probe.name](probe) if probe.name in CHARTS else []
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{FIGURES}: the details of the probe {probe.name!r} cannot be drawn ({error!r}); run the same"
            " `medvlm-r1 audit model` again to rewrite them"
        ) from error
    return Finding(
        anchor=anchor,
        question=question,
        verdict=probe.verdict,
        sentence=probe.sentence,
        curves=tuple(curve for curve in curves if curve is not None),
        charts=tuple(charts),
        figures=_figures(probe.measures),
        judged_by=tuple((name, str(rule)) for name, rule in probe.thresholds.items()),
    )


def _figures(measures: Mapping[str, Measure]) -> Table | None:
    rows = [
        Row(
            name=found.about or name,
            small=name if found.about else "",
            cells=(Cell(value=_value(found)), Cell(value=_ends(found)), Cell(value=str(found.n))),
        )
        for name, found in measures.items()
    ]
    columns = (("Value", ""), ("Interval", "95 %"), ("n", ""))
    return Table(corner="Measure", columns=columns, rows=tuple(rows)) if rows else None


def _value(found: Measure) -> str:
    if found.unit == "share":
        return f"{percent(100 * found.value)}\u00a0%" if found.n else "–"
    return f"{signed(100 * found.value)} points" if found.unit == "difference" else number(found.value)


def _ends(found: Measure) -> str:
    if found.ci95 is None or not found.n:
        return "–"
    low, high = found.ci95
    if found.unit == "share":
        return interval((100 * low, 100 * high))
    if found.unit == "difference":
        return f"{signed(100 * low)} to {signed(100 * high)}"
    return f"{number(low)} to {number(high)}"


def _came_back(items: Mapping[str, StoredItem]) -> Table:
    """Reply counts by variant; "shift-1", "shift-2", ... are combined."""
    counts: dict[str, list[int]] = {}
    for item in items.values():
        for name, answer in item.answers.items():
            row = counts.setdefault(name.rstrip("0123456789").rstrip("-"), [0, 0, 0, 0])
            found = (True, answer.letter is None, answer.truncated, answer.empty)
            for place, value in enumerate(found):
                row[place] += value
    columns = (("Answers", ""), ("Unparsed", ""), ("Truncated", ""), ("Empty", ""))
    rows = tuple(Row(name=name, cells=tuple(Cell(value=str(value)) for value in row)) for name, row in counts.items())
    return Table(corner="Variant", columns=columns, rows=rows)


def _facts(view: AuditView) -> tuple[str, ...]:
    record = view.record
    told = (
        f"Model: {short(record['model'])}. Data: {short(record['data'])}. Prompt template: {record['template']}; "
        f"at most {record['max_new_tokens']} tokens per completion.",
        f"Open questions left out: {record['n_open']}. Questions left out for missing images: {record['n_missing']}.",
        "An unparsed answer counts as wrong. It is neither the same answer nor another.",
        "Shares have Wilson’s 95 % interval with the effective sample size. Differences and ratios have Bonett and "
        "Price’s interval for paired shares. All others have a bootstrap interval over whole subjects. The package’s "
        "`docs/reference/audit-model.md` explains every measure, verdict and threshold.",
        "`medvlm-r1 audit model MODEL --data DIR --out RUN` makes these figures (`audit.json`), `medvlm-r1 report RUN` "
        "this page.",
    )
    missing = [name for name in PROBES if name not in view.probes]
    return (*told, f"Probes that were not requested: {', '.join(missing)}.") if missing else told
