"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
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
