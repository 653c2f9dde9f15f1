"""Audit charts: shares with intervals, and how often each letter is correct."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.dataset.blind import CHANCE
from medvlm_r1.audit.dataset.verdict import MARGIN, Figure
from medvlm_r1.report.charts import Tick
from medvlm_r1.report.table import percent

# User units; the template scales a chart to its column.
_ROW = 24.0
_TOP, _LEFT, _RIGHT = 6.0, 116.0, 318.0
_CHARACTER, _FURTHEST = 5.5, 190.0
_LETTERS_LEFT, _LETTERS_RIGHT, _LETTERS_BOTTOM = 8.0, 292.0, 128.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One share: name, percent, interval in percent (optional), and tone as in `BlindRow`."""

    name: str
    percent: float
    ci95: tuple[float, float] | None = None
    tone: str = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindRow:
    """One share as drawn: positions in user units, and labels.

    Attributes:
        tone: "high" if its interval is `MARGIN` or more above chance, "raised" if above chance, otherwise "plain".
    """

    name: str
    label: str
    at: float
    low: float
    value: float
    high: float
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindChart:
    """Shares on a scale of 0 to 100 percent; `chance` is the position of the dashed line, or None."""

    title: str
    subtitle: str
    rows: tuple[BlindRow, ...]
    ticks: tuple[Tick, ...]
    chance: float | None
    height: float
    bottom: float
    width: float = 360.0
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterBar:
    """One letter: left and upper edge of its column, and height of an even distribution."""

    letter: str
    count: int
    x: float
    y: float
    expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterChart:
    """How often each letter of one modality is correct."""

    title: str
    subtitle: str
    bars: tuple[LetterBar, ...]
    column: float
    width: float = 300.0
    height: float = 150.0
    left: float = _LETTERS_LEFT
    right: float = _LETTERS_RIGHT
    bottom: float = _LETTERS_BOTTOM


def blind_chart(title: str, figures: Mapping[str, Figure], names: Mapping[str, str]) -> BlindChart:
    """Lay out the baselines of one modality.

    Args:
        title: Name of the modality.
        figures: By baseline, chance among them.
        names: By baseline, its name in the chart.
    """
    chance = figures[CHANCE].percent
    shares = []
    for name, found in figures.items():
        if name != CHANCE:
            low = found.ci95[0]
            tone = "high" if low >= chance + MARGIN else "raised" if low > chance else "plain"
            shares.append(Share(name=names[name], percent=found.percent, ci95=found.ci95, tone=tone))
    return share_chart(title, f"{figures[CHANCE].n} questions, chance {percent(chance)} %", shares, line=chance)


def share_chart(title: str, subtitle: str, shares: Sequence[Share], *, line: float | None = None) -> BlindChart:
    """Lay out shares as rows.

    Args:
        title: Heading.
        subtitle: Description in small print.
        shares: In the order of the rows; long names leave less room for the scale.
        line: Position of a dashed line, in percent.
    """
    left = min(max(_LEFT, 16 + _CHARACTER * max((len(share.name) for share in shares), default=0)), _FURTHEST)

    def across(value: float) -> float:
        return round(left + value / 100 * (_RIGHT - left), 1)

    rows = []
    for place, share in enumerate(shares):
        low, high = share.ci95 or (share.percent, share.percent)
        rows.append(
            BlindRow(
                name=share.name,
                label=percent(share.percent),
                at=_TOP + _ROW * (place + 0.5),
                low=across(low),
                value=across(share.percent),
                high=across(high),
                tone=share.tone,
            )
        )
    bottom = _TOP + _ROW * len(shares)
    return BlindChart(
        title=title,
        subtitle=subtitle,
        rows=tuple(rows),
        ticks=tuple(Tick(at=across(value), label=str(value)) for value in range(0, 101, 25)),
        chance=None if line is None else across(line),
        height=bottom + 22,
        bottom=bottom,
        left=left,
    )


def letter_chart(title: str, counts: Mapping[str, int], options: Sequence[int]) -> LetterChart:
    """Lay out how often each letter is correct.

    Args:
        title: Name of the modality.
        counts: By letter.
        options: Number of options of each question.
    """
    expected = [sum(1 / size for size in options if place < size) for place in range(len(counts))]
    most = max([*counts.values(), *expected, 1])
    step = (_LETTERS_RIGHT - _LETTERS_LEFT) / max(len(counts), 1)
    column = round(min(step * 0.55, 40.0), 1)
    room = _LETTERS_BOTTOM - 20

    def height(count: float) -> float:
        return round(_LETTERS_BOTTOM - count / most * room, 1)

    bars = tuple(
        LetterBar(
            letter=letter,
            count=count,
            x=round(_LETTERS_LEFT + step * (place + 0.5) - column / 2, 1),
            y=height(count),
            expected=height(even),
        )
        for place, ((letter, count), even) in enumerate(zip(counts.items(), expected, strict=True))
    )
    return LetterChart(title=title, subtitle=f"{len(options)} questions", bars=bars, column=column)
