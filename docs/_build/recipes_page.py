"""The recipes that come with the package: what their heads say, what they change, and the files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from markdown_parts import RESEARCH_USE, block, code, prose, table

from medvlm_r1.recipes import recipe

BASE = "paper.yaml"


def recipes_page() -> str:
    """The page: an overview, then a section a recipe, then the files for accelerate."""
    folder = recipe(BASE).parent
    files = sorted(
        folder.glob("*.yaml"), key=lambda file: (not file.name.startswith("phantom"), file.name != BASE, file.name)
    )
    read = {file: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    base = _flat(read[folder / BASE])
    rows = [
        [f"[`{file.name}`](#{_anchor(file)})", code(found["model"]), found["method"], _rewards(found)]
        for file, found in read.items()
    ]
    parts = [
        "# Recipes",
        RESEARCH_USE,
        "The package contains these recipes: `--config recipes/NAME` finds them from any folder. `train ... --dry-run` "
        "estimates the memory ([dry run](dry-run.md)); `key=value` changes a field ([configuration](configuration.md)).",
        table(["Recipe", "Model", "Method", "Rewards"], rows),
    ]
    for file, found in read.items():
        parts += [f"## {file.name} {{ #{_anchor(file)} }}", *_head(file)]
        if file.name != BASE and found["model"] != "phantom-base":
            parts += [f"Against `{BASE}`:", _differences(base, _flat(found))]
        parts.append(_folded(file))
    parts.append("## For accelerate")
    for file in sorted((folder / "accelerate").glob("*.yaml")):
        parts += [f"### accelerate/{file.name} {{ #accelerate-{file.stem} }}", *_head(file), _folded(file)]
    return "\n\n".join(parts) + "\n"


def _split(file: Path) -> tuple[list[str], str]:
    """The lines of the comment that a file begins with, and the rest."""
    lines = file.read_text(encoding="utf-8").splitlines()
    end = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end]], "\n".join(lines[end:])


def _head(file: Path) -> list[str]:
    """The comment as paragraphs, lists and blocks of code; Markdown wants blank lines between them."""
    parts: list[tuple[str, list[str]]] = []
    for line in _split(file)[0]:
        kind = "code" if line.startswith("    ") else "item" if line.startswith("* ") else "text"
        if kind == "text" and line.startswith("  ") and parts and parts[-1][0] == "item":
            parts[-1][1].append(line.strip())
        elif not line.strip():
            parts.append(("", []))
        elif parts and parts[-1][0] == kind and kind != "item":
            parts[-1][1].append(line.strip() if kind == "text" else line[4:])
        else:
            parts.append((kind, [line.removeprefix("* ") if kind == "item" else line.strip()]))
    shown = []
    for kind, lines in parts:
        if kind == "code":
            shown.append(block("\n".join(lines), "console"))
        elif kind == "item":
            item = f"* {prose(' '.join(lines))}"
            if shown and shown[-1].startswith("* "):
                shown[-1] += f"\n{item}"
            else:
                shown.append(item)
        elif kind:
            shown.append(prose(" ".join(lines)))
    return shown


def _folded(file: Path) -> str:
    body = "\n".join(f"    {line}".rstrip() for line in block(_split(file)[1].strip(), "yaml").splitlines())
    return f'??? example "{file.parent.name}/{file.name}"\n\n{body}'


def _differences(base: dict[str, Any], found: dict[str, Any]) -> str:
    keys = [key for key in {**base, **found} if base.get(key) != found.get(key) and key != "out"]
    shown = {key: [code(str(one[key])) if key in one else "" for one in (base, found)] for key in keys}
    return table(["Key", BASE, "here"], [[code(key), *pair] for key, pair in shown.items()])


def _flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key == "rewards":
            flat[key] = ", ".join(one["name"] for one in value)
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _rewards(found: dict[str, Any]) -> str:
    return ", ".join(code(one["name"].rpartition(":")[2]) for one in found.get("rewards", ()))


def _anchor(file: Path) -> str:
    return file.stem.replace(".", "-")
