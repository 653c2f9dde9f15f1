"""SVG primitives: text, boxes, arrows and embedded images."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence

from PIL.Image import Image

INK, PALE, BLUE, GREEN, RED = "#1f2937", "#6b7280", "#3f51b5", "#2e7d32", "#b3261e"
LINE = 15
"""Height of a line of text."""


def drawing(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Return a complete drawing on white, so that it is readable on a dark page too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">\n<title>{html.escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def words(x: float, y: float, text: str, *, wide: int = 200, most: int = 99, **style: object) -> str:
    """Return text at a baseline, wrapped after `wide` characters and truncated after `most` lines."""
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, wide) or [""]]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} ..."]
    named = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    spans = "".join(
        f'<tspan x="{x}" dy="{LINE if n else 0}">{html.escape(line)}</tspan>' for n, line in enumerate(lines)
    )
    return f'<text x="{x}" y="{y}"{named}>{spans}</text>'


def box(x: float, y: float, width: float, height: float, *, fill: str = "#f5f6fa", edge: str = "#c5cae9") -> str:
    """A rectangle with round corners."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="{edge}"/>'


def picture(x: float, y: float, size: float, image: Image) -> str:
    """Return an image, embedded as PNG."""
    stream = io.BytesIO()
    image.resize((112, 112)).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<image x="{x}" y="{y}" width="{size}" height="{size}" href="data:image/png;base64,{data}"/>'


def arrow(x: float, y: float, length: float) -> str:
    """An arrow to the right."""
    end = x + length
    return (
        f'<path d="M{x} {y} H{end - 6}" stroke="{PALE}" stroke-width="1.5" fill="none"/>'
        f'<path d="M{end} {y} l-7 -4 v8 z" fill="{PALE}"/>'
    )
