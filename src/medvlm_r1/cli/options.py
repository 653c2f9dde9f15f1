"""Options shared by several commands, their shell completion, and checks of the paths they name."""

import inspect
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import typer

from medvlm_r1.errors import UsageError

# Shells do not expand the tilde of --out=~/x and data.train=~/x.
_HOME = re.compile(r"((?:--)?[\w.-]+=)?(~(?:/.*)?)", re.DOTALL)


def expand_home(arguments: Sequence[str]) -> list[str]:
    """Expand `~` at the start of every argument, and after the `NAME=` of an argument."""
    matches = [(argument, _HOME.fullmatch(argument)) for argument in arguments]
    return [f"{match[1] or ''}{Path(match[2]).expanduser()}" if match else text for text, match in matches]


def described(command: Callable[..., None]) -> Callable[..., None]:
    """Take the help of a command's parameters from the section "Options" at the end of its docstring.

    Keyword-only parameters are options, and others are arguments, unless their annotation says otherwise.
    """
    command.__doc__, _, section = inspect.cleandoc(command.__doc__ or "").partition("\n\nOptions:\n")
    command.__annotations__ = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
        hint: Any = command.__annotations__[name]
        if get_origin(hint) is not Annotated:
            keyword = parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            hint = Annotated[hint, typer.Option() if keyword else typer.Argument(metavar=name.upper())]
            command.__annotations__[name] = hint
        hint.__metadata__[0].help = " ".join(text.split())
    return command


def completion(*names: str) -> Callable[[str], list[str]]:
    """Create a shell completion function for a fixed set of names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> list[str]:
    """Complete `phantom-base`. If nothing is typed yet, return no names, so that the shell completes file names."""
    return [name for name in ("phantom-base",) if incomplete and name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the names of the packaged recipes, as `recipes/NAME`."""
    from medvlm_r1.recipes import recipe

    return completion(*(f"recipes/{file.name}" for file in sorted(recipe("").glob("*.yaml"))))(incomplete)


def find_recipe(file: Path) -> Path:
    """Find a recipe: an existing file, or a packaged recipe given as `NAME` or `recipes/NAME`.

    Raises:
        UsageError: There is no such recipe, or the path is a folder.
    """
    from medvlm_r1.data.names import did_you_mean
    from medvlm_r1.recipes import recipe

    if file.is_dir():
        raise UsageError(f"{file} is a folder; wanted a YAML file.")
    if file.exists():
        return file
    name = file.as_posix().removeprefix("recipes/")
    packaged = recipe(name)
    if packaged.is_file():
        return packaged
    known = [str(path.relative_to(recipe(""))) for path in recipe("").rglob("*.yaml")]
    raise UsageError(f"{file}: no such file, nor a recipe of the package; {did_you_mean(name, known)}")


def print_result(record: Any, lines: Sequence[str], *, as_json: bool) -> None:
    """Print the result of a command: one JSON object, or lines of text."""
    print(json.dumps(record) if as_json else "\n".join(lines))


def folder_to_write(context: typer.Context, path: Path | None) -> Path | None:
    """Check, before the work starts, that a path is a writable folder or that a folder can be created there.

    Raises:
        UsageError: The path, or its nearest existing parent, is not a folder or is not writable.
    """
    if path is None or context.resilient_parsing:
        return path
    for ancestor in (path, *path.parents):
        name = f"{path}" if ancestor == path else f"{path}: {ancestor}"
        if ancestor.is_dir():
            if not os.access(ancestor, os.W_OK | os.X_OK):
                raise UsageError(f"{name} is not writable; change its permissions, or give another folder.")
            return path
        if os.path.lexists(ancestor):
            raise UsageError(f"{name} is not a folder; give another folder, or move the file away.")
    return path


def page_or_folder(context: typer.Context, path: Path | None) -> Path | None:
    """Check that an HTML file, or a folder for it, can be written at a path (see `folder_to_write`)."""
    return page_to_write(context, path) if path and is_page(path) else folder_to_write(context, path)


def page_to_write(context: typer.Context, path: Path) -> Path:
    """Check that an HTML file can be written at a path (see `folder_to_write`)."""
    if path.is_dir() and not context.resilient_parsing:
        raise UsageError(f"{path} is a folder; give the name of the HTML file, such as {path / 'report.html'}.")
    folder_to_write(context, path.parent)
    return path


def is_page(path: Path) -> bool:
    """Whether a path ends in `.html` or `.htm`."""
    return path.suffix.lower() in (".html", ".htm")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path, typer.Option(callback=folder_to_write, help="Folder to write.")]
Data = Annotated[Path, typer.Option(metavar="DIR", help="Data folder, as written by `data import`.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_model,
        help="Folder of a model or LoRA adapter, hub id, phantom-base, or openai:URL#NAME for a model on a server.",
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Evaluate at most N questions (default: all).")]
NewTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Generate at most N tokens per answer.")]
SkipMissing = Annotated[
    bool,
    typer.Option(
        "--skip-missing",
        help="Skip and count questions with a missing image, or one of a size that the model cannot process.",
    ),
]


Dtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32"],
    typer.Option(help="Dtype of a local model; auto is bfloat16 on a GPU and float32 on a CPU."),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Override fields, such as seed=1.")
]
# `prompts.templates` is slow to import.
_BOX_TEMPLATES = Literal["medvlm-r1-box", "medvlm-r1-box-pixels"]
Template = Annotated[
    Literal[
        "medvlm-r1", "medvlm-r1-open", "answer-only", "answer-only-open", "no-think", "think-after", _BOX_TEMPLATES
    ],
    typer.Option(help="Prompt template."),
]
