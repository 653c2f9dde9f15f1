"""The `completion` command: what a shell needs to complete verbs, options and choices."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells there is a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion_command(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script that completes this command in a shell; put it where the shell reads it.

    bash: medvlm-r1 completion bash >> ~/.bashrc
    zsh: medvlm-r1 completion zsh > ~/.zfunc/_medvlm-r1, with fpath+=~/.zfunc before compinit in ~/.zshrc
    fish: medvlm-r1 completion fish > ~/.config/fish/completions/medvlm-r1.fish

    Example: medvlm-r1 completion bash
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    # The variable by which typer's own entry point knows that it is asked to complete.
    print(get_completion_script(prog_name="medvlm-r1", complete_var="_MEDVLM_R1_COMPLETE", shell=shell.value))
