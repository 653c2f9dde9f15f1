"""Self-contained HTML pages: template rendering, table types and number formatting."""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from medvlm_r1.data.paths import explain_os_error
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import RESEARCH_USE

NOTHING = "–"
"""Placeholder for a missing value."""


class Cell(NamedTuple):
    """One table cell.

    Attributes:
        value: The value as text.
        small: Lines in small print below the value.
        bar: (lower end, value, upper end, chance) of a share in percent, drawn as a bar; chance may be None.
    """

    value: str = NOTHING
    small: tuple[str, ...] = ()
    bar: tuple[float, float, float, float | None] | None = None


class Row(NamedTuple):
    """One table row; `style` is the color number of its run, or None.

    `stays` marks a reference row that remains last when the table is sorted.
    """

    name: str
    cells: Sequence[Cell]
    small: str = ""
    style: int | None = None
    stays: bool = False


class Table(NamedTuple):
    """A table.

    Attributes:
        corner: Heading of the row names.
        columns: (heading, small print) pairs, one per cell of every row.
        rows: The rows.
        sorts: Whether a reader can sort the table.
    """

    corner: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    sorts: bool = True


def text_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, sorts: bool = True) -> Table:
    """Return a table of plain values; the first column holds the row names."""
    body = [Row(str(name), [Cell(str(value)) for value in values]) for name, *values in rows]
    return Table(headings[0], [(name, "") for name in headings[1:]], body, sorts)


def percent(value: float) -> str:
    """Format a percentage with one decimal, without a percent sign."""
    return f"{value:.1f}"


def interval(ends: Sequence[float]) -> str:
    """Format an interval in percent, without percent signs."""
    return f"{percent(ends[0])}–{percent(ends[1])}"


def short(path: str) -> str:
    """Shorten an absolute path to its last two components; a hub id or relative path is unchanged."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def signed(value: float) -> str:
    """Format percentage points with one decimal and a plus or minus sign."""
    text = percent(abs(value))
    return text if text == "0.0" else f"{'+' if value > 0 else '−'}{text}"


def number(value: float) -> str:
    """Format a value with three significant digits, without exponent if possible."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    else:
        text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def template_text(name: str) -> str:
    """Return the text of a file in `report/templates`, such as a shared style sheet."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medvlm_r1.report"),
        extensions=["jinja2.ext.do"],
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The page's only script, and its hash for the content security policy.
    script = template_text("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_hash": Markup(f"sha256-{digest}")}
    environment.globals |= {"research_use": RESEARCH_USE, "letters": LETTERS}
    environment.filters["filled"] = lambda text, fields: text.format_map(defaultdict(lambda: "?", fields))
    environment.filters |= {f.__name__: f for f in (interval, number, percent, short, signed)}
    return environment


def render_page(template: str, **values: Any) -> str:
    """Render a template.

    Args:
        template: Name of a file in `report/templates`. Values are escaped only in HTML templates.
        values: Template variables, in addition to `research_use`, `letters` and the table script.
    """
    return _environment().get_template(template).render(values)


def write_page(out: Path | str, template: str, **values: Any) -> Path:
    """Render a template and write it to a file atomically; return the path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    out = Path(out)
    # Model text may contain lone surrogates, which UTF-8 cannot encode.
    page = render_page(template, **values).encode(errors="replace").decode()
    with explain_os_error(f"{out}: cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, page)
    return out
