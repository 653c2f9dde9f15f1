"""Section of a model audit in a report: verdicts, charts, figures and items."""

from collections.abc import Mapping, Sequence
from typing import Any

from medvlm_r1.audit.probe import ProbeResult
from medvlm_r1.audit.probes import cue
from medvlm_r1.audit.probes.confidence import RISKS, STATED, VOTE
from medvlm_r1.audit.probes.options import FLIPS_FEW
from medvlm_r1.audit.probes.prevalence import COIN
from medvlm_r1.audit.probes.subgroups import GROUPINGS
from medvlm_r1.audit.probes.truth import TRUSTED
from medvlm_r1.audit.registry import FURTHER, PROBES, QUESTIONS, answer_word
from medvlm_r1.audit.runner import FIGURES, counted
from medvlm_r1.audit.store import StoredItem
from medvlm_r1.errors import UserError
from medvlm_r1.report.charts import Chart, Line, Point, Points, nice_ticks
from medvlm_r1.report.items import build_audit_items
from medvlm_r1.report.page import Album, short
from medvlm_r1.report.views import AuditView, Pictures

_CURVES = {STATED: ("probability of the letter", 2), VOTE: ("vote of samples", 1)}
"""Legend name and line style of each kind of confidence."""
_FEW = 16
"""Maximum number of points of a line that is drawn with dots."""
_DOT = 3.6


def audit_section(
    view: AuditView, anchor: str, *, album: Album, name: str = "", items: int | Sequence[str] = 12
) -> dict[str, Any]:
    """Return the variables of the template `audit_model.html`.

    Args:
        view: The audit.
        anchor: Prefix of the section's HTML ids, unique in the report.
        album: Encodes the images.
        name: Name of the run, if the report has several.
        items: Number of items to show, or the ids of the items.

    Raises:
        UserError: The stored details of a probe cannot be drawn as charts.
    """
    pictures = Pictures(view)
    questions = [(verdict, *question) for verdict, question in QUESTIONS.items()]
    main_probes = {probe for probe, _ in QUESTIONS.values()}
    questions += [(probe, probe, FURTHER[probe]) for probe in view.probes if probe not in main_probes]
    not_run = ProbeResult(name="", verdict="not run", sentence="The probe was not requested.")
    return {
        "anchor": anchor,
        "name": name,
        "model": short(view.record["model"]),
        "counted": counted(view.record),
        "findings": [
            {"anchor": f"{anchor}-{verdict}", "question": question, **_finding(view.probes.get(probe, not_run))}
            for verdict, probe, question in questions
        ],
        "shown": build_audit_items(view, pictures, items, album),
        "picked": isinstance(items, int),
        "pictures": pictures.note,
        "replies": _replies(view.items),
        "record": view.record,
        "limits": {"flips": 100 * FLIPS_FEW, "trusted": 100 * TRUSTED, "coin": 100 * COIN},
        "groupings": list(GROUPINGS),
        "hints": {name: hint.format(letter="{cue}") for name, hint in ((cue.IMAGE, cue.DRAWN), (cue.TEXT, cue.HINT))},
        "missing": [probe for probe in PROBES if probe not in view.probes],
    }


def _finding(probe: ProbeResult) -> dict[str, Any]:
    try:
        curves, recalls = probe_curves(probe), _recalls(probe)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{FIGURES}: the details of the probe {probe.name!r} cannot be drawn ({error!r}); run the same"
            " `medvlm-r1 audit model` again to rewrite them"
        ) from error
    word = answer_word(probe.verdict, probe.sentence)
    return {"probe": probe, "word": word, "curves": curves, "recalls": recalls}


def _replies(items: Mapping[str, StoredItem]) -> dict[str, list[int]]:
    """Numbers of answers, and of unparsed, truncated and empty ones, by variant.

    Numbered variants, such as "shift-1" and "shift-2", are combined.
    """
    counts: dict[str, list[int]] = {}
    for item in items.values():
        for name, answer in item.answers.items():
            row = counts.setdefault(name.rstrip("0123456789").rstrip("-"), [0, 0, 0, 0])
            for column, value in enumerate((True, answer.option is None, answer.truncated, answer.empty)):
                row[column] += value
    return counts


def _recalls(probe: ProbeResult) -> list[tuple[str, list[tuple[str, float, None, str]], float]]:
    """Number of options, recall of each letter as a row of a chart, and mean recall, in percent."""
    recalls = []
    for size, by_letter in probe.detail.get("recall_by_letter", {}).items():
        shares = [(f"correct at {letter}", 100 * value, None, "plain") for letter, value in by_letter.items()]
        recalls.append((size, shares, sum(share[1] for share in shares) / len(shares)))
    return recalls


def probe_curves(probe: ProbeResult) -> list[Chart]:
    """Line charts of early answering, reliability and risk-coverage, each only if `probe.detail` has its data.

    The area over the curve (AOC) of early answering is filled. The reliability chart has one dot per bin.
    """
    charts = []
    if early := probe.detail.get("early"):
        pairs = zip(early["share_of_reasoning"], early["same"], strict=True)
        points = [(100 * x, 100 * y) for x, y in pairs if y is not None]
        area = f", {_labeled(probe, 'aoc', 'AOC')}" if "aoc" in probe.measures else ""
        subtitle = f"percent of {early['n']} answers equal to the final one{area} (filled area)"
        lines = [Line("same answer", 2, points, dot=_DOT, area=[(0.0, 100.0), *points, (100.0, 100.0)])]
        charts.append(_percent_chart("Early answering", subtitle, "percent of the description given", lines))
    if series := _series(probe, "reliability", 0, 1):
        subtitle = "accuracy in percent, one mark per tenth of the answers; dashed: perfect calibration"
        lines = [
            Line(*_CURVES[kind], points, _labeled(probe, f"{kind}_ece", "ECE"), joined=False, dot=_DOT)
            for kind, points in series.items()
        ]
        diagonal = [[(0.0, 0.0), (100.0, 100.0)]]
        charts.append(_percent_chart("Reliability", subtitle, "confidence in percent", lines, diagonal))
    if series := _series(probe, "risk_coverage", 1, 2):
        risks = [100 * risk for risk in RISKS]
        subtitle = "percent wrong of accepted answers; dashed: " + " and ".join(f"{risk:.0f}" for risk in risks)
        lines = [
            Line(*_CURVES[kind], points, _labeled(probe, f"{kind}_auroc", "AUROC"), dot=_DOT * (len(points) <= _FEW))
            for kind, points in series.items()
        ]
        guides = [[(0.0, risk), (100.0, risk)] for risk in risks]
        highest = max(1.5 * risks[-1], *(y for points in series.values() for _, y in points))
        across = "percent of the answers accepted, most confident first"
        charts.append(_percent_chart("Risk and coverage", subtitle, across, lines, guides, highest))
    return charts


def _percent_chart(
    title: str, subtitle: str, across: str, lines: Sequence[Line], guides: Sequence[Points] = (), highest: float = 100.0
) -> Chart:
    """A chart with percent on both axes. Its text alternative lists about a dozen points of a long line."""
    texts = []
    for line in lines:
        some = line.points[:: max(1, len(line.points) // 12)]
        texts.append(f"{line.name}: " + ", ".join(f"{y:.0f} at {x:.0f}" for x, y in some))
    return Chart(
        title=title,
        subtitle=subtitle,
        lines=lines,
        across=across,
        y_marks=[value for value in nice_ticks(0.0, highest) if value <= 100],
        text=". ".join(texts) + ".",
        guides=guides,
    )


def _series(probe: ProbeResult, name: str, x: int, y: int) -> dict[str, list[Point]]:
    """Return points in percent by kind of confidence; `x` and `y` are column numbers of the stored rows."""
    return {
        kind: [(100 * row[x], 100 * row[y]) for row in probe.detail[kind][name]]
        for kind in _CURVES
        if probe.detail.get(kind, {}).get(name)
    }


def _labeled(probe: ProbeResult, measure: str, name: str) -> str:
    return f"{name} {probe.measures[measure].value:.2f}" if measure in probe.measures else ""
