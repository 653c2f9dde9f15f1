"""The `medvlm-r1` command: its subcommands, their order in the help, and the message after an interruption."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medvlm_r1.cli.ask import ask_command, serve_command
from medvlm_r1.cli.audit import audit_app
from medvlm_r1.cli.data import data_app
from medvlm_r1.cli.errors import Interrupted, run_command
from medvlm_r1.cli.evaluate import compare_command, eval_command
from medvlm_r1.cli.options import described, expand_home
from medvlm_r1.cli.report import export_command, report_command
from medvlm_r1.cli.start import demo_command, doctor_command, recipes_command
from medvlm_r1.cli.train import train_app
from medvlm_r1.errors import RESEARCH_USE

HELP = f"Vision-language models that reason about radiology images. {RESEARCH_USE}"
# In the order in which a user typically runs them.
_COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "demo": demo_command,
    "data": data_app,
    "train": train_app,
    "eval": eval_command,
    "compare": compare_command,
    "audit": audit_app,
    "report": report_command,
    "ask": ask_command,
    "serve": serve_command,
    "export": export_command,
    "recipes": recipes_command,
    "doctor": doctor_command,
}
_RESUMABLE = ("demo", "eval", "train grpo", "train sft", "audit model", "data difficulty")
_NOT_RESUMABLE = "Interrupted. Nothing reusable was kept; re-running starts again."


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            verb = ctx.invoked_subcommand if ctx.parent is None else f"{ctx.info_name} {ctx.invoked_subcommand}"
            raise Interrupted(str(interrupt) or ("" if verb in _RESUMABLE else _NOT_RESUMABLE)) from interrupt


class _Verbs(_Group):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*_COMMANDS]


# Without these defaults, typer loads pydantic to check its own flags.
_NOT_GIVEN = dict.fromkeys(("help", "install_completion", "show_completion"), False)
app = typer.Typer(
    cls=_Verbs,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"default_map": {**_NOT_GIVEN, **dict.fromkeys(("data", "train", "audit"), _NOT_GIVEN)}},
)
for _name, _command in _COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name, cls=_Group)
    else:
        app.command(_name)(described(_command))


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"medvlm-r1 {version('medvlm-r1')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point of the command line. Errors that users can fix are printed as one message without a traceback."""
    # Typer would print errors in a frame, which breaks their lines and hides them from `grep`.
    code = run_command(lambda: app(expand_home(sys.argv[1:]), prog_name="medvlm-r1", standalone_mode=False))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
