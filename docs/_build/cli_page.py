"""The command line, verb by verb, as its parser has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from markdown_parts import RESEARCH_USE, block, code, prose, table

from medvlm_r1.cli import main as cli

PROGRAM = "medvlm-r1"
_EXAMPLE = "Example: "


def cli_page() -> str:
    """The page: groups as sections, verbs as their parts."""
    root: Any = typer.main.get_command(cli.app)
    context = typer.Context(root, info_name=PROGRAM)
    parts = [
        "# The command line",
        RESEARCH_USE,
        "Exit codes: 0 done, 1 failed, 2 wrong usage. With `--json` one JSON object is printed on stdout and "
        f"nothing else; progress goes to stderr. `{PROGRAM} --install-completion` installs completion of verbs, options "
        "and names for bash, zsh and fish.",
        table(
            ["Verb", "What it does"],
            [[f"[`{name}`](#{_anchor(name)})", _first(one.help)] for name, one, _ in verbs(root, context)],
        ),
    ]
    parts += [part for name, one, of in verbs(root, context) for part in _verb(name, one, of)]
    return "\n\n".join(parts) + "\n"


def verbs(group: Any, context: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Name, command and context of every verb, in the order of the help."""
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        of = typer.Context(one, info_name=name, parent=context)
        if hasattr(one, "commands"):
            yield from verbs(one, of, (*path, name))
        else:
            yield " ".join((*path, name)), one, of


def _verb(name: str, one: Any, context: Any) -> list[str]:
    paragraphs = _told(one.help).split("\n\n")
    examples = [line.strip().removeprefix(_EXAMPLE) for line in one.help.splitlines() if _EXAMPLE in line]
    usage = " ".join([PROGRAM, name, *one.collect_usage_pieces(context)])
    records = [record for parameter in one.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [[code(term), prose(told)] for term, told in records]
    return [
        f"## {PROGRAM} {name} {{ #{_anchor(name)} }}",
        *map(prose, paragraphs),
        block(usage, "text"),
        table(["Argument or option", "Meaning"], rows),
        "Example:" if len(examples) == 1 else "Examples:",
        block("\n".join(examples), "console"),
    ]


def _told(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if _EXAMPLE not in line).strip()


def _first(text: str) -> str:
    return prose(_told(text).split("\n\n")[0])


def _anchor(name: str) -> str:
    return name.replace(" ", "-")
