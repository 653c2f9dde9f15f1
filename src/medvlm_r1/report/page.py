"""Rendering of templates into self-contained HTML files."""

import base64
import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.report.table import number, short


def render_page(template: str, **values: Any) -> str:
    """Render a template.

    Args:
        template: Its name in `report/templates`.
        values: Template variables, in addition to `research_use` and the table script.
    """
    return _environment().get_template(template).render(research_use=RESEARCH_USE, **_script(), **values)


@cache
def _script() -> dict[str, Markup]:
    """Return the page's only script and its hash for the content security policy."""
    text = template_text("sort.js")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": Markup(f"sha256-{digest}")}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medvlm_r1.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "short": short}
    return environment


def write_page(out: Path | str, template: str, **values: Any) -> Path:
    """Render a template into a file, atomically.

    Args:
        out: The HTML file.
        template: Its name in `report/templates`.
        values: Template variables, in addition to `research_use`.

    Returns:
        The path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    page = render_page(template, **values)
    out = Path(out)
    temporary = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Model text may contain lone surrogates, which UTF-8 cannot encode.
        temporary.write_text(page, encoding="utf-8", errors="replace")
        os.replace(temporary, out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def template_text(name: str) -> str:
    """Return the text of a file in `report/templates`, such as a shared style sheet."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]
