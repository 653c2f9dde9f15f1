"""Commands as they are typed: whether their parser accepts them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import typer

from medvlm_r1.cli import main as cli


def parse_command(program: str, words: list[str]) -> None:
    """Give a command to its parser, which raises where an argument is wrong.

    Args:
        program: `medvlm-r1`, or `python` for `python -m benchmarks.NAME`.
        words: The arguments.
    """
    if program == "python":
        dash, module, *words = words
        assert dash == "-m"
        app = typer.Typer()
        app.command()(importlib.import_module(module).main)
        verb: Any = typer.main.get_command(app)
    else:
        assert program in ("medvlm-r1", "accelerate"), program
        verb = typer.main.get_command(cli.app)
    while hasattr(verb, "commands"):
        name, *words = words
        assert name in verb.commands, f"no command {name!r}"
        verb = verb.commands[name]
    verb.make_context(verb.name, words)


def verbs(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb of `medvlm-r1`: its words, and its command."""
    for name, command in (group or typer.main.get_command(cli.app)).commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command
