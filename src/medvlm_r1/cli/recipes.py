"""The `recipes` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import complete_recipe, find_recipe


def recipes_command(
    name: Annotated[
        Path | None, typer.Argument(metavar="NAME", autocompletion=complete_recipe, help="Recipe to show.")
    ] = None,
    copy: Annotated[Path | None, typer.Option(metavar="FILE", help="Copy the recipe to a new file.")] = None,
) -> None:
    """List the recipes of the package, or show or copy one.

    Example: medvlm-r1 recipes phantom.yaml
    Example: medvlm-r1 recipes phantom.yaml --copy mine.yaml
    """
    from medvlm_r1.errors import UsageError

    if name is None:
        if copy is not None:
            raise UsageError("--copy needs the NAME of a recipe.")
        print("\n".join(complete_recipe("")))
        return
    text = find_recipe(name).read_text(encoding="utf-8")
    if copy is None:
        print(text, end="")
        return
    if copy.exists():
        raise UsageError(f"{copy} exists; give the name of a new file.")
    copy.write_text(text, encoding="utf-8")
    print(f"Recipe: {copy}")
