"""`python -m benchmarks.NAME`: one command per module, with the options and error messages of `medvlm-r1`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli.errors import run_command
from medvlm_r1.cli.options import complete_recipe, expand_home

Recipe = Annotated[Path, typer.Option("--config", autocompletion=complete_recipe, help="A GRPO recipe.")]


def run(command: Callable[..., Any], name: str) -> None:
    """Run a command with the process's arguments and exit with its code: 0 done, 1 failed, 2 wrong usage.

    Args:
        command: A function with typer's annotations.
        name: The module after `benchmarks.`.
    """
    app = typer.Typer(add_completion=False)
    app.command()(command)
    arguments = expand_home(sys.argv[1:])
    sys.exit(run_command(lambda: app(arguments, prog_name=f"python -m benchmarks.{name}", standalone_mode=False)))
