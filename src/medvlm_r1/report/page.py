"""Self-contained HTML pages: template rendering, table types, number formatting, and embedded images.

Each image gets an equal share of `PAGE_BYTES`: its JPEG quality and its size are reduced until it fits. An image that
appears several times is written once and referenced.
"""

import base64
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import explain_os_error, inside
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import RESEARCH_USE, UserError

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


PAGE_BYTES = 16_000_000
"""Budget for all encoded images of a page. A page may have 25 MB in total; the rest is for the text."""
LONGEST_SIDE = 448
_LOSSLESS_SIDE = 256
"""Images up to this size in pixels are encoded without loss, so that no compression artifact looks like a finding."""
_STEPS = ((448, 90), (448, 80), (384, 80), (320, 80), (256, 80), (256, 70), (224, 65), (192, 60), (160, 50), (96, 40))
"""(longest side, JPEG quality), in order of preference."""


@dataclass(slots=True, eq=False)
class Picture:
    """An image as a data URI, with its size in pixels. `uses` is the number of times that it appears on the page."""

    name: str
    uri: str
    width: int
    height: int
    uses: int = 0


class Album:
    """Encodes the images of one page.

    Args:
        expected: Number of images that share the budget. More images are accepted, but exceed the budget.
    """

    def __init__(self, expected: int) -> None:
        self._most = PAGE_BYTES // max(expected, 1)
        self._files: dict[tuple[Path, int], Picture] = {}
        self._pictures: dict[str, Picture] = {}

    def picture(self, image: Image.Image, longest_side: int = LONGEST_SIDE) -> Picture:
        """Encode an in-memory RGB image. The given image is not modified."""
        uri, size = _encoded(image, longest_side, self._most)
        picture = self._pictures.setdefault(uri, Picture(f"picture-{len(self._pictures)}", uri, *size))
        picture.uses += 1
        return picture

    def find(self, folder: Path, image: str, longest_side: int = LONGEST_SIDE) -> Picture | None:
        """Encode an image of a data folder; None if it can no longer be read. Each file is read only once."""
        try:
            path = inside(folder, image)
            if picture := self._files.get((path, longest_side)):
                picture.uses += 1
            else:
                picture = self._files[path, longest_side] = self.picture(load_image(path), longest_side)
        except UserError:
            return None
        return picture

    @property
    def shared(self) -> list[Picture]:
        """Images that appear several times."""
        return [picture for picture in self._pictures.values() if picture.uses > 1]


def picture_uri(picture: Image.Image, longest_side: int = LONGEST_SIDE) -> str:
    """Encode an in-memory image as a data URI. The given image is not modified.

    Args:
        picture: An image in mode RGB.
        longest_side: Larger images are scaled down to this many pixels on the longer side.
    """
    return _encoded(picture, longest_side)[0]


def _encoded(picture: Image.Image, longest_side: int, most: float = math.inf) -> tuple[str, tuple[int, int]]:
    """Return the first encoding of at most `most` characters, or the last one, as a data URI, and its image size."""
    steps: list[tuple[int, int | None]] = [(longest_side, 90), *(step for step in _STEPS if step[0] <= longest_side)]
    if min(longest_side, max(picture.size)) <= _LOSSLESS_SIDE:
        steps.insert(0, (longest_side, None))
    for side, quality in dict.fromkeys(steps):
        image = picture.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        gray = image.convert("L")
        image = gray if gray.convert("RGB").tobytes() == image.tobytes() else image
        buffer = io.BytesIO()
        kind, options = ("jpeg", {"quality": quality}) if quality else ("png", {})
        image.save(buffer, kind, optimize=True, **options)
        uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(uri) <= most:
            break
    return uri, image.size
