"""Options that several commands share, with what completes them in a shell, and the paths they name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.errors import UsageError

_HTML = (".html", ".htm")
# A shell leaves the tilde of --out=~/x and of data.train=~/x alone.
_HOME = re.compile(r"((?:--)?[\w.-]+=)?(~(?:/.*)?)", re.DOTALL)


def at_home(arguments: Sequence[str]) -> list[str]:
    """Arguments with the home folder in place of a leading `~`, after `NAME=` too."""
    found = [(argument, _HOME.fullmatch(argument)) for argument in arguments]
    return [
        f"{match[1] or ''}{Path(match[2]).expanduser()}" if match else argument for argument, match in found
    ]  # fmt: skip


def completes(*names: str) -> Callable[[str], list[str]]:
    """What completes one of these names in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> list[str]:
    """The embedded model once its first letters are there; before, the shell's own file names are of more use."""
    return [name for name in ("phantom-base",) if incomplete and name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """The recipes that come with the package, as they may be named anywhere."""
    from medvlm_r1.recipes import recipe

    names = (f"recipes/{file.name}" for file in sorted(recipe("paper.yaml").parent.glob("*.yaml")))
    return [name for name in names if name.startswith(incomplete)]


def find_recipe(file: Path) -> Path:
    """The file, or the one that comes with the package, for `NAME` and `recipes/NAME`.

    Raises:
        UsageError: there is neither, or a folder stands there.
    """
    from medvlm_r1.data.names import did_you_mean
    from medvlm_r1.recipes import recipe

    if file.is_dir():
        raise UsageError(f"{file}: a folder; wanted a YAML file.")
    if file.exists():
        return file
    name = file.as_posix().removeprefix("recipes/")
    packaged = recipe(name)
    if packaged.is_file():
        return packaged
    known = [str(one.relative_to(recipe(""))) for one in recipe("").rglob("*.yaml")]
    raise UsageError(f"{file}: no such file, here or among the recipes of the package; {did_you_mean(name, known)}")


def folder_to_write(context: typer.Context, path: Path | None) -> Path | None:
    """A path where a folder is or can be made: told before the work, not after it.

    Raises:
        UsageError: a file stands there or on the way, or the place may not be written to.
    """
    if path is None or context.resilient_parsing:
        return path
    for place in (path, *path.parents):
        seen = f"{path}" if place == path else f"{path}: {place}"
        if place.is_dir():
            if not os.access(place, os.W_OK | os.X_OK):
                raise UsageError(f"{seen} may not be written to; mend its rights, or give another folder.")
            return path
        if os.path.lexists(place):
            raise UsageError(f"{seen} is no folder; give another one to write into, or move it away.")
    return path


def page_or_folder(context: typer.Context, path: Path | None) -> Path | None:
    """A path for an HTML file, or for a folder to hold it; raises as `folder_to_write`."""
    if path is None or path.suffix.lower() not in _HTML:
        return folder_to_write(context, path)
    return page_to_write(context, path)


def page_to_write(context: typer.Context, path: Path) -> Path:
    """A path for an HTML file; raises as `folder_to_write`."""
    if path.is_dir() and not context.resilient_parsing:
        raise UsageError(f"{path}: a folder; give the name of the HTML file, such as {path / 'report.html'}.")
    folder_to_write(context, path.parent)
    return path


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path, typer.Option("--out", callback=folder_to_write, help="Folder to write.")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="Data folder, as `data import` makes it.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_model,
        help="A folder of a model or LoRA adapter, a hub id, phantom-base, or openai:URL#NAME for a model on a server.",
    ),
]
OwnModel = Annotated[
    str,
    typer.Argument(metavar="MODEL", autocompletion=complete_model, help="A folder, a hub id, or phantom-base."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions. All by default.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens of the longest completion; longer ones are cut off.")]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing",
        help="Leave out and count questions whose images are missing, or of a size the model cannot process.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes, such as trainer.beta=0.1.")
]


class Template(StrEnum):
    """Prompt templates."""

    medvlm_r1 = "medvlm-r1"
    answer_only = "answer-only"
    no_think = "no-think"
    think_after = "think-after"


TemplateName = Annotated[Template, typer.Option(help="Prompt template.")]
