"""MkDocs hook: add the pages that are generated from the code; none of them is a file under `docs/`.

Command line, configuration and recipes come from the package. `contributing.md` and `security.md` come from the root
folder, and `notebooks/api.md` from the notebook with its saved outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli_page import cli_page
from configuration_page import configuration_page
from nbconvert import MarkdownExporter
from recipes_page import recipes_page

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "api.ipynb"
_INTO_DOCS = re.compile(r"(\]\()docs/")


def pages() -> Mapping[str, str | bytes]:
    """Every generated page and its images, by path under `docs/`."""
    return {
        "reference/cli.md": cli_page(),
        "reference/configuration.md": configuration_page(),
        "reference/recipes.md": recipes_page(),
        "contributing.md": _of_the_root("CONTRIBUTING.md"),
        "security.md": _of_the_root("SECURITY.md"),
        **_notebook(),
    }


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages (called by MkDocs)."""
    from mkdocs.structure.files import File

    for place, content in pages().items():
        files.append(File.generated(config, place, content=content))
    return files


def _of_the_root(name: str) -> str:
    """A file of the root folder, with links relative to `docs/`."""
    return _INTO_DOCS.sub(r"\1", (ROOT / name).read_text(encoding="utf-8"))


def _notebook() -> dict[str, str | bytes]:
    text, resources = MarkdownExporter().from_filename(str(NOTEBOOK), {"output_files_dir": "api_files"})
    # A notebook stores each image in two formats; the page shows one.
    shown = {name: content for name, content in resources["outputs"].items() if f"]({name})" in text}
    pictures = {f"notebooks/{name}": content for name, content in shown.items()}
    return {"notebooks/api.md": text, **pictures}
